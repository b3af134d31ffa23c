"""Blending a network with what it started from."""

from __future__ import annotations

import torch
from torch import Tensor

from training.architectures import ARCHITECTURES, Network
from training.blend import blend, measure_statistics

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [255 * torch.rand(8, 3, 32, 32, generator=GENERATOR) for _ in range(2)]


def network(seed: int) -> Network:
    torch.manual_seed(seed)
    model = ARCHITECTURES["plain-cnn-small"](10)
    model.initialise(torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    measure_statistics(model, BATCHES)
    return model


def copied(model: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_no_share_changes_nothing_and_the_whole_one_is_the_start() -> None:
    model, start = network(1), network(2)
    pixels = BATCHES[0]
    mine, others = model(pixels), start(pixels)
    blend(model, start.state_dict(), 0, BATCHES)
    assert torch.allclose(model(pixels), mine, atol=1e-4)
    blend(model, start.state_dict(), 1, BATCHES)
    assert torch.allclose(model(pixels), others, atol=1e-3)


def test_the_length_of_a_filter_bank_does_not_matter() -> None:
    blended = []
    for length in (1.0, 7.0):
        model, start = network(1), copied(network(2))
        for name, weight in start.items():
            if "conv" in name:
                start[name] = length * weight
        blend(model, start, 0.5, BATCHES)
        blended.append(model(BATCHES[1]))
    assert torch.allclose(blended[0], blended[1], atol=1e-3)


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
