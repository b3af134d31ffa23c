"""Optimisers, schedules and the lookahead average."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from training.architectures.blocks import Stage
from training.architectures.plain_cnn import PlainCNN
from training.optim import LR_SCHEDULES, OPTIMIZERS, SGD, Adam, Lookahead, Muon, orthogonal
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


def test_a_steady_gradient_moves_weights_by_the_decay_free_step() -> None:
    config = replace(RECIPES["cifar10-teacher-44"], batch_size=1024, weight_decay=0.0)
    model = nn.Linear(1, 1, bias=False)
    optimizer = OPTIMIZERS["sgd"](model, config)
    for _ in range(200):
        before = model.weight.item()
        model.weight.grad = torch.ones(1, 1)
        optimizer.step()
    factor = 1 / (1 - config.momentum)  # what momentum makes of a gradient that stays
    assert before - model.weight.item() == pytest.approx(config.lr * factor / (1 + factor), rel=1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_decays_weights_as_its_recipe_says(name: str) -> None:
    model = nn.Linear(1, 1, bias=False)
    groups = OPTIMIZERS[name](model, replace(RECIPES["cifar10-teacher-44"], weight_decay=0.5)).param_groups
    assert groups[0]["weight_decay"] > 0


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


def test_adam_begins_with_a_step_of_the_learning_rate_whatever_the_gradient() -> None:
    weight = nn.Parameter(torch.zeros(3))
    optimizer = Adam([weight], lr=0.1)
    weight.grad = torch.tensor([1e-3, -5.0, 0.0])
    optimizer.step()
    assert torch.allclose(weight, torch.tensor([-0.1, 0.1, 0.0]), atol=1e-4)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_an_optimiser_needs_no_compiler_and_goes_on_from_its_state(
    kind: type[SGD | Adam], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # whose import takes seconds, and fails now
    once, stopped = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizers = [kind([once], lr=0.1), kind([stopped], lr=0.1)]
    for _ in range(3):
        for weight, optimizer in zip((once, stopped), optimizers, strict=True):
            optimizer.zero_grad()
            weight.pow(3).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        state = optimizers[1].state_dict()
        optimizers[1] = kind([stopped], lr=0.1)
        optimizers[1].load_state_dict(state)
    assert torch.equal(once, stopped)


def test_muon_without_orthogonal_is_nesterov_sgd() -> None:
    torch.manual_seed(0)
    mine, torchs = (nn.Parameter(torch.full((3, 2), 0.5)) for _ in range(2))
    settings = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.01}
    muon = Muon([{"params": [mine], **settings}], lr=0.1)
    sgd = SGD([torchs], lr=0.1, momentum=0.8, weight_decay=0.01, nesterov=True)
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


@pytest.mark.parametrize(("progress", "kept"), [(0.0, 0.0), (0.5, 0.95**5 / 8), (1.0, 0.95**5)])
def test_lookahead_holds_on_to_more_the_longer_it_runs(progress: float, kept: float) -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    lookahead = Lookahead(model)
    model.weight.data.fill_(0.0)
    lookahead.step(progress)
    assert model.weight.item() == pytest.approx(kept)


def test_lookahead_averages_the_statistics_of_norms_too() -> None:
    model = nn.BatchNorm2d(2)
    lookahead = Lookahead(model)
    assert model.running_mean is not None
    model.running_mean.fill_(1.0)
    lookahead.pull(decay=0.5)
    assert model.running_mean.tolist() == [0.5, 0.5]
