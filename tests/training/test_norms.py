"""Statistics that fit a network, and a network that they are folded into."""

from __future__ import annotations

import torch

from tests.runs import exported_weights
from training.architectures import ARCHITECTURES, Network
from training.norms import folded, measure_statistics, unfold

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [255 * torch.rand(8, 3, 32, 32, generator=GENERATOR) for _ in range(2)]


def network(seed: int) -> Network:
    torch.manual_seed(seed)
    model = ARCHITECTURES["plain-cnn-small"](10)
    model.initialise([torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    measure_statistics(model, BATCHES)
    return model


def test_statistics_are_the_averages_over_all_batches() -> None:
    model = network(1)
    norm = model.stages[0].norm1  # type: ignore[union-attr,index]
    momentum = norm.momentum
    measured = []
    for batches in ([BATCHES[0]], [BATCHES[1]], BATCHES):
        measure_statistics(model, batches)
        measured.append(norm.running_mean.clone())
    assert torch.allclose(measured[2], (measured[0] + measured[1]) / 2, atol=1e-5)
    assert not torch.allclose(measured[0], measured[1], atol=1e-3)
    assert (norm.momentum, model.training) == (momentum, False)


def test_a_network_from_an_exported_file_is_the_same_in_training() -> None:
    model, exported, images = network(1), ARCHITECTURES["plain-cnn-small"](10), torch.cat(BATCHES)
    measure_statistics(model, [images])
    weights = exported_weights(model)
    exported.adopt(weights)
    expected = model(images)
    assert (folded(model), folded(exported)) == (False, True)
    assert not torch.allclose(exported.train()(images), expected, atol=0.1)
    exported.adopt(weights)
    unfold(exported, [images])
    assert not folded(exported)
    assert torch.allclose(exported(images), expected, atol=0.05)
    assert torch.allclose(exported.train()(images), expected, atol=0.05)
