"""Optimisers, schedules and the lookahead average."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.architectures.plain_cnn import PlainCNN
from training.optim import LR_SCHEDULES, OPTIMIZERS, Lookahead
from training.recipes import RECIPES


@pytest.mark.parametrize(
    ("name", "start", "peak_at", "end"),
    [("constant", 1.0, 0.0, 1.0), ("triangle", 0.2, 0.23, 0.07), ("warm-up-linear", 0.2, 0.1, 0.0)],
)
def test_schedules(name: str, start: float, peak_at: float, end: float) -> None:
    schedule = LR_SCHEDULES[name]
    values = [schedule(i / 1000) for i in range(1001)]
    assert (values[0], values[-1]) == pytest.approx((start, end))
    assert max(values) == pytest.approx(1.0)
    assert values.index(max(values)) / 1000 == pytest.approx(peak_at, abs=0.002)


def test_norm_biases_learn_64_times_faster_and_decay_no_more() -> None:
    config = RECIPES["cifar10"]
    others, biases = OPTIMIZERS["sgd"](PlainCNN(), config).param_groups
    assert biases["lr"] == pytest.approx(64 * others["lr"])
    assert biases["lr"] * biases["weight_decay"] == pytest.approx(others["lr"] * others["weight_decay"])
    assert len(biases["params"]) == 6
    assert all(p.requires_grad for p in (*others["params"], *biases["params"]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    x = torch.randn(64, 4)
    y = x[:, :3].argmax(1)
    optimizer = OPTIMIZERS[name](model, RECIPES["tutorial-adam" if name == "adam" else "cifar10"])
    losses = []
    for _ in range(50):
        loss = nn.functional.cross_entropy(model(x), y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[-1] < losses[0]


def test_lookahead_sets_the_fast_weights_back_to_the_average() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    lookahead = Lookahead(model)
    model.weight.data.fill_(1.0)
    lookahead.pull(decay=0.75)
    assert model.weight.item() == pytest.approx(0.25)
    model.weight.data.fill_(9.0)
    lookahead.finish()
    assert model.weight.item() == pytest.approx(0.25)


def test_lookahead_averages_the_statistics_of_norms_too() -> None:
    model = nn.BatchNorm2d(2)
    lookahead = Lookahead(model)
    assert model.running_mean is not None
    model.running_mean.fill_(1.0)
    lookahead.pull(decay=0.5)
    assert model.running_mean.tolist() == [0.5, 0.5]
