"""The network before its first step: as its seed, its teacher or an exported file has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.runs import CPU, SMALL, exported_weights, run, small, untrained_teacher
from training.architectures.plain_cnn import PlainCNN
from training.checkpoint import network_of
from training.data import Split, TrainingData, load_training_data
from training.device import Precision
from training.errors import CheckpointError
from training.loop import logits_of, train
from training.norms import measure_statistics
from training.recipes import with_overrides
from training.run import Run
from training.start import WHITENING_BATCH, Start, batches_of, build_network, pixels

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture
def data(generated_data: Path) -> TrainingData:
    return small(load_training_data(generated_data))


def test_a_start_is_the_same_as_often_as_it_is_made(data: TrainingData) -> None:
    each = run("cifar10", data)
    once, again = each.start.network().state_dict(), each.start.network().state_dict()
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_a_network_may_start_as_the_one_that_it_extends(data: TrainingData, tmp_path: Path) -> None:
    config = replace(SMALL["cifar10"], architecture="plain-cnn-small")
    plain, *teachers = (untrained_teacher(seed, data, config.architecture) for seed in range(len(config.teachers)))
    extended = replace(config, architecture="excited-cnn-small", epochs=1, restarts=(5,))
    runs = [Run("cifar10", each, data, CPU, Precision.FP32, (plain, *teachers)) for each in (config, extended)]
    images = pixels(data.validation.images)
    before, got = (each.model.eval()(images) for each in runs)
    assert torch.equal(before, got)
    train(runs[1], tmp_path)
    excitations = [weight for name, weight in runs[1].model.named_parameters() if "excite" in name]
    assert all(weight.any() for weight in excitations)

    grown = replace(plain, config=replace(plain.config, architecture="excited-cnn-small"))
    with pytest.raises(CheckpointError, match=r"kind excited-cnn-small, and .* trains one of kind plain-cnn-small;"):
        Run("cifar10", config, data, CPU, Precision.FP32, (grown, *teachers))


@pytest.mark.parametrize(
    ("architecture", "own"),
    [("plain-cnn", {"head.weight"}), ("tutorial-cnn", {"layers.11.weight", "layers.11.bias"})],
)
def test_a_start_that_knows_other_classes_gives_all_but_its_last_layer(
    data: TrainingData, architecture: str, own: set[str]
) -> None:
    pets = replace(data, labels=("cat", "dog"))
    config = with_overrides(replace(SMALL["tutorial"], architecture=architecture, image_size=32), start="untrained")
    for known, fresh in ((pets, own), (data, set())):
        start = untrained_teacher(1, known, architecture, image_size=32)
        for mean in (weight for name, weight in start.model.items() if name.endswith("running_mean")):
            mean.fill_(0.1)  # as of one that has seen something
        each = Run("tutorial", config, data, CPU, Precision.FP32, (start,))
        assert each.ensemble is None
        weights = each.model.state_dict()
        assert {name for name in weights if not torch.equal(weights[name], start.model[name])} == fresh


def test_a_network_from_an_exported_file_starts_as_what_it_was(generated_data: Path) -> None:
    data = load_training_data(generated_data)  # all of it: two batches' statistics are to be alike
    config = replace(SMALL["cifar10"], image_size=32)
    start, *teachers = (untrained_teacher(seed, data, image_size=32) for seed in range(len(config.teachers)))
    network = network_of(start)
    measure_statistics(network, [pixels(data.train.images[:1_000])])
    exported = network_of(start)
    exported.adopt(exported_weights(network))
    teacher = replace(start, model=exported.state_dict())
    each = Run("cifar10", config, data, CPU, Precision.FP32, (teacher, *teachers))
    images = pixels(data.validation.images)
    expected = network(images)
    assert torch.allclose(each.model.eval()(images), expected, atol=0.05)
    assert torch.allclose(each.model.train()(images), expected, atol=0.2)
    assert not torch.allclose(exported.train()(images), expected, atol=0.2)


def test_whitening_sees_the_images_a_few_at_a_time(data: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(PlainCNN, "initialise", lambda _, batches: sizes.extend(map(len, batches)))
    build_network(SMALL["tutorial"], data, CPU)
    assert sum(sizes) == 200  # of which the fixture has it make do
    assert max(sizes) == WHITENING_BATCH


@pytest.mark.parametrize(("size", "together"), [(32, 500), (64, 125), (224, 10), (1_024, 8)])
def test_large_images_are_fewer_together(size: int, together: int) -> None:
    images = torch.empty((1, 1, 1, 3), dtype=torch.uint8).expand(501, size, size, 3)
    sizes = [len(batch) for batch in batches_of(images)]
    assert sum(sizes) == 501
    assert sizes[0] == together


def test_statistics_and_validation_take_that_many_together(data: TrainingData) -> None:
    images = data.train.images.repeat(1, 14, 14, 1)[:21]  # 224 × 224 pixels
    large = replace(data, train=Split(images, data.train.labels[:21]))
    start = Start(SMALL["tutorial"], large, CPU, Precision.FP32)
    assert [len(batch) for batch in start.typical_batches()] == [10, 10]

    class Counting(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_full((len(x), 1), len(x))

    counted = logits_of(Counting(), images, CPU, Precision.FP32)
    assert counted.flatten().tolist() == [10] * 20 + [1]
