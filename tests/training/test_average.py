"""The mean of networks, and statistics that fit it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.architectures import ARCHITECTURES, Network
from training.average import average, folded, measure_statistics, unfold

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


def test_the_mean_of_one_network_is_that_network() -> None:
    model, other = network(1), network(2)
    expected = other(BATCHES[0])
    average(model, [other.state_dict()], BATCHES)
    assert torch.allclose(model(BATCHES[0]), expected, atol=1e-3)


def test_weights_are_the_mean_of_those_of_all_networks() -> None:
    model = network(1)
    networks = [copied(network(seed)) for seed in (2, 3, 4)]
    average(model, networks, BATCHES)
    expected = torch.stack([each["head.weight"] for each in networks]).mean(0)
    assert torch.allclose(model.state_dict()["head.weight"], expected, atol=1e-6)


def test_the_length_of_a_filter_bank_does_not_matter() -> None:
    answers = []
    for length in (1.0, 7.0):
        model, other = network(1), copied(network(2))
        for name, weight in other.items():
            if "conv" in name:
                other[name] = length * weight
        average(model, [copied(model), other], BATCHES)
        answers.append(model(BATCHES[1]))
    assert torch.allclose(answers[0], answers[1], atol=1e-3)


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
    layers = [part for layer in model.inference_layers() for part in layer.modules()]
    weights = [(p.weight, p.bias) for p in layers if isinstance(p, nn.Conv2d | nn.Linear) and p.bias is not None]
    exported.adopt(weights)
    expected = model(images)
    assert (folded(model), folded(exported)) == (False, True)
    assert not torch.allclose(exported.train()(images), expected, atol=0.1)
    exported.adopt(weights)
    unfold(exported, [images])
    assert not folded(exported)
    assert torch.allclose(exported(images), expected, atol=0.05)
    assert torch.allclose(exported.train()(images), expected, atol=0.05)
