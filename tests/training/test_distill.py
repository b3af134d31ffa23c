"""What teachers say, and that it is their mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from training.architectures import Network
from training.architectures.network import Weights
from training.distill import Memory, Teachers


class Says(Network):
    """Logits that depend on the left half of the image alone."""

    def __init__(self, offset: float) -> None:
        super().__init__((0, 0, 0), (1, 1, 1))
        self.offset = offset

    def classify(self, x: Tensor) -> Tensor:
        left = x[:, :, :, : x.shape[3] // 2].mean((2, 3))
        return 2 * left + self.offset * torch.arange(3)

    @property
    def last_layer(self) -> nn.Linear:
        return nn.Linear(1, 3)

    def inference_layers(self) -> Iterator[nn.Module]:
        return iter(())

    def adopt(self, layers: Sequence[Weights]) -> None:
        assert not layers


def test_targets_are_probabilities_of_one_teacher_and_one_mirror_image() -> None:
    teachers, pixels = [Says(0), Says(1)], 255 * torch.rand(5, 3, 4, 4)
    said = [teacher(view).softmax(1) for teacher in teachers for view in (pixels, pixels.flip(3))]
    ensemble = Teachers(teachers)
    drawn = [ensemble.targets(pixels, torch.Generator().manual_seed(seed)) for seed in range(400)]
    counts = [sum(torch.equal(target, each) for target in drawn) for each in said]
    assert sum(counts) == 400
    assert all(60 < count < 140 for count in counts)  # a quarter each


def test_a_temperature_makes_targets_softer_and_keeps_their_order() -> None:
    teacher, pixels = Says(3), torch.zeros(1, 3, 4, 4)
    soft, hard = (Teachers([teacher], temperature).targets(pixels, torch.Generator()) for temperature in (4.0, 1.0))
    assert torch.allclose(soft, (teacher(pixels) / 4).softmax(1))
    assert torch.equal(soft.argsort(1), hard.argsort(1))
    assert float(soft.max()) < float(hard.max())


def test_teachers_no_longer_learn() -> None:
    network = Says(0).train()
    target = Teachers([network]).targets(torch.rand(1, 3, 4, 4, requires_grad=True), torch.Generator())
    assert not network.training
    assert not target.requires_grad


def test_answers_are_kept_and_known_from_then_on() -> None:
    memory, later = (Memory(batches=2, batch_size=3, classes=4, device=torch.device("cpu")) for _ in range(2))
    said = torch.rand((3, 4)).softmax(1)
    assert not memory.knows(1)
    memory.keep(1, said)
    later.restore(memory.answers)
    for each in (memory, later):
        assert (each.knows(0), each.knows(1)) == (False, True)
        assert each.recall(1).dtype == torch.float32
        assert torch.allclose(each.recall(1), said, atol=1e-3)
    assert torch.equal(later.recall(1), memory.recall(1))
