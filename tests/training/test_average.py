"""The mean of networks, and statistics that fit it."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.training.test_norms import BATCHES, network
from training.architectures import Network
from training.average import average


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
