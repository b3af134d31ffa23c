"""Gradients → new weights: optimisers, learning-rate schedules, and the lookahead average."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.recipes import TrainConfig

Kind = TypeVar("Kind", bound=Optimizer)


def uncompiled(kind: type[Kind]) -> type[Kind]:
    """An optimiser that is never under `torch.compile`, and so need not import that compiler, which takes seconds.

    Torch wraps these methods to tell the compiler what to leave alone, and around some steps gradients are kept off by
    the same wrapper.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        setattr(kind, name, inspect.unwrap(getattr(kind, name)))
    kind.step = torch.no_grad()(inspect.unwrap(kind.step))  # type: ignore[method-assign]  # to take its place is the purpose
    return kind


@uncompiled
class SGD(torch.optim.SGD):
    """Torch's."""


@uncompiled
class Adam(torch.optim.Adam):
    """Torch's."""


@uncompiled
class LBFGS(torch.optim.LBFGS):
    """Torch's."""


@uncompiled
class Muon(Optimizer):
    """Nesterov SGD whose convolution filters move by the orthogonal matrix nearest to their update.

    K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), as in their CIFAR-10 speed
    recipe: before each step a filter bank is set back to the Frobenius norm √outputs, so that the learning rate
    alone decides how far it turns (batch normalisation behind it makes its length meaningless). Groups without
    `orthogonal` take the plain step, that of `torch.optim.SGD(nesterov=True)`.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": 0.0, "weight_decay": 0.0, "orthogonal": False})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closure is ever given
        """Move every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)

    def _move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if group["weight_decay"]:
            gradient = gradient.add(weight, alpha=group["weight_decay"])
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        velocity: Tensor = state["momentum"]
        velocity.mul_(group["momentum"]).add_(gradient)
        update = gradient.add(velocity, alpha=group["momentum"])
        if group["orthogonal"]:
            weight.mul_(len(weight) ** 0.5 / weight.norm())
            update = orthogonal(update.flatten(1)).view_as(weight)
        weight.add_(update, alpha=-group["lr"])


def orthogonal(matrix: Tensor, steps: int = 3) -> Tensor:
    """Roughly the nearest matrix of the same shape (m, n) with orthonormal rows or columns.

    A quintic Newton-Schulz iteration with K. Jordan's coefficients, which lift small singular values fast and let
    large ones end loosely around 1. Three steps, as in that recipe, leave the smallest short of it.
    """
    x = matrix / (matrix.norm() + 1e-7)
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    result: Tensor = x.T if tall else x
    return result


def _sgd_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Nesterov SGD in the units of K. Jordan's speed recipes, in which lr, decay and momentum don't interact.

    `lr` is the decay-free step for 1,024 images with their losses summed; dividing by 1 + 1/(1 - momentum) takes
    out what Nesterov momentum multiplies in, and dividing the decay by lr makes it independent of lr.
    The biases of normalisation layers learn `norm_bias_lr_factor` times faster.
    """
    unit = 1024 * (1 + 1 / (1 - config.momentum))  # images, times what Nesterov momentum multiplies in
    lr = config.lr * config.batch_size / unit  # on the mean loss
    decay = config.weight_decay * config.batch_size / unit
    biases = [p for n, p in model.named_parameters() if p.requires_grad and "norm" in n]
    others = [p for n, p in model.named_parameters() if p.requires_grad and "norm" not in n]
    bias_lr = lr * config.norm_bias_lr_factor
    groups: list[dict[str, Any]] = [{"params": others, "lr": lr, "weight_decay": decay / lr}]
    if biases:
        groups.append({"params": biases, "lr": bias_lr, "weight_decay": decay / bias_lr})
    return [{**group, "momentum": config.momentum} for group in groups]


def _sgd(model: nn.Module, config: TrainConfig) -> Optimizer:
    return SGD(_sgd_groups(model, config), lr=config.lr, nesterov=True, momentum=config.momentum)


def _muon(model: nn.Module, config: TrainConfig) -> Optimizer:
    """`muon_lr` for the 3×3 filters; the head and the biases learn as in `_sgd`."""
    groups = _sgd_groups(model, config)
    filters = [p for p in groups[0]["params"] if p.ndim == 4]
    groups[0]["params"] = [p for p in groups[0]["params"] if p.ndim != 4]
    groups.append({"params": filters, "lr": config.muon_lr, "momentum": config.muon_momentum, "orthogonal": True})
    return Muon(groups, lr=config.lr)


def _adam(model: nn.Module, config: TrainConfig) -> Optimizer:
    """Adam as every tutorial uses it."""
    return Adam([p for p in model.parameters() if p.requires_grad], lr=config.lr, weight_decay=config.weight_decay)


OPTIMIZERS: dict[str, Callable[[nn.Module, TrainConfig], Optimizer]] = {"sgd": _sgd, "muon": _muon, "adam": _adam}


def _constant(_progress: float) -> float:
    return 1.0


def _triangle(progress: float) -> float:
    """0.2 → 1 over the first 23 %, then linearly to 0.07: for short runs."""
    return 0.2 + 0.8 * progress / 0.23 if progress < 0.23 else 1 - 0.93 * (progress - 0.23) / 0.77


def _warm_up_linear(progress: float) -> float:
    """0.2 → 1 over the first 10 %, then linearly to 0: for long runs."""
    return 0.2 + 0.8 * progress / 0.1 if progress < 0.1 else (1 - progress) / 0.9


def _linear(progress: float) -> float:
    """1 → 0: for Muon, whose first steps need no care."""
    return 1 - progress


# progress 0 … 1 through the run → factor on the learning rate
LR_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": _constant,
    "triangle": _triangle,
    "warm-up-linear": _warm_up_linear,
    "linear": _linear,
}


class Lookahead:
    """A slow copy of the weights that the fast ones are set back to every few steps.

    M. Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back" (2019), with K. Jordan's decay, which
    rises from 0 to 0.95^5 with the cube of progress. Statistics of normalisation layers are averaged too.
    """

    INTERVAL = 5

    def __init__(self, model: nn.Module) -> None:
        self._fast = [t for t in model.state_dict().values() if t.is_floating_point()]
        self.slow: list[Tensor] = [t.clone() for t in self._fast]

    def step(self, progress: float) -> None:
        """Move the slow weights towards the fast ones, then set the fast ones to them."""
        self.pull(decay=0.95**self.INTERVAL * progress**3)

    def pull(self, decay: float) -> None:
        """slow ← decay × slow + (1 - decay) × fast; fast ← slow."""
        with torch.no_grad():
            for slow, fast in zip(self.slow, self._fast, strict=True):
                slow.lerp_(fast, 1 - decay)
                fast.copy_(slow)

    def finish(self) -> None:
        """The network becomes the slow weights."""
        with torch.no_grad():
            for slow, fast in zip(self.slow, self._fast, strict=True):
                fast.copy_(slow)

    def load(self, slow: list[Tensor]) -> None:
        """Continue from the slow weights of a checkpoint."""
        for mine, saved in zip(self.slow, slow, strict=True):
            mine.copy_(saved)
