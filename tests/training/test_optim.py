"""Optimisers, schedules and the lookahead average."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from training import optim
from training.architectures.blocks import Stage
from training.architectures.plain_cnn import PlainCNN
from training.optim import LR_SCHEDULES, OPTIMIZERS, Lookahead, Muon, orthogonal
from training.recipes import RECIPES


@pytest.mark.parametrize(
    ("name", "start", "peak_at", "end"),
    [
        ("constant", 1.0, 0.0, 1.0),
        ("triangle", 0.2, 0.23, 0.07),
        ("warm-up-linear", 0.2, 0.1, 0.0),
        ("linear", 1.0, 0.0, 0.0),
    ],
)
def test_schedules(name: str, start: float, peak_at: float, end: float) -> None:
    schedule = LR_SCHEDULES[name]
    values = [schedule(i / 1000) for i in range(1001)]
    assert (values[0], values[-1]) == pytest.approx((start, end))
    assert max(values) == pytest.approx(1.0)
    assert values.index(max(values)) / 1000 == pytest.approx(peak_at, abs=0.002)


def test_norm_biases_learn_64_times_faster_and_decay_no_more() -> None:
    config = RECIPES["cifar10-teacher-44"]
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
    optimizer = OPTIMIZERS[name](model, RECIPES["tutorial-adam" if name == "adam" else "cifar10-teacher-44"])
    losses = []
    for _ in range(50):
        loss = nn.functional.cross_entropy(model(x), y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (64, 576)])
def test_orthogonal_keeps_the_singular_vectors_and_levels_the_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    levelled = left.T @ orthogonal(matrix, steps=5) @ right.T
    assert ((levelled.diag() > 0.6) & (levelled.diag() < 1.3)).all()
    assert torch.allclose(levelled, levelled.diag().diag(), atol=1e-3)


@pytest.mark.parametrize(
    ("mine", "torchs", "settings"),
    [
        (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        (optim.Adam, torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.1}),
        (optim.LBFGS, torch.optim.LBFGS, {"max_iter": 5, "line_search_fn": "strong_wolfe"}),
    ],
)
def test_without_the_compiler_an_optimiser_takes_the_same_steps(
    mine: type[Optimizer], torchs: type[Optimizer], settings: dict[str, Any]
) -> None:
    inputs = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    weights = []
    for kind in (mine, torchs):
        weight = nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
        optimizer = kind([weight], **settings)

        def loss(weight: nn.Parameter = weight, optimizer: Optimizer = optimizer) -> float:
            optimizer.zero_grad()
            value = (weight @ inputs.T - 1).square().mean()
            value.backward()  # type: ignore[no-untyped-call]
            return value.item()

        for _ in range(5):
            optimizer.step(loss)
            optimizer.load_state_dict(optimizer.state_dict())
        weights.append(weight.detach())
    assert torch.equal(*weights)


def test_muon_without_orthogonal_is_nesterov_sgd() -> None:
    torch.manual_seed(0)
    mine, torchs = (nn.Parameter(torch.full((3, 2), 0.5)) for _ in range(2))
    settings = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.01}
    muon = Muon([{"params": [mine], **settings}], lr=0.1)
    sgd = torch.optim.SGD([torchs], lr=0.1, momentum=0.8, weight_decay=0.01, nesterov=True)
    for _ in range(5):
        mine.grad = torchs.grad = torch.randn(3, 2)
        muon.step()
        sgd.step()
    assert torch.allclose(mine, torchs)


def test_muon_turns_filters_by_the_learning_rate_alone() -> None:
    config = replace(RECIPES["cifar10-teacher-44"], optimizer="muon")
    model = PlainCNN(10, widths=(16, 16, 16))
    optimizer = OPTIMIZERS["muon"](model, config)
    stage = model.stages[0]
    assert isinstance(stage, Stage)
    filters = stage.conv2.weight
    steps = []
    for size in (1e-3, 1e3):
        filters.grad = size * torch.randn(filters.shape, generator=torch.Generator().manual_seed(0))
        optimizer.state.clear()
        before = filters.detach() * 4 / filters.detach().norm()  # √16 outputs
        optimizer.step()
        steps.append(float((filters.detach() - before).norm()) / config.muon_lr)
    assert steps[0] == pytest.approx(steps[1], rel=1e-3)
    assert 2.8 < steps[0] < 4.8  # √16, levelled roughly


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
