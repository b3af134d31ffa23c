"""Batches → the statistics of a network's norms: measured anew, or got back after an export folded them away."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def measure_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Every norm's mean and variance become the averages of those of `batches`; eval mode afterwards."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for an average over all batches
    model.train()
    for batch in batches:
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


@torch.no_grad()
def unfold(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Have the norms of a network from an exported file normalise again, while its answers stay nearly the same.

    There, statistics are folded into the filters, and a norm adds no more than a bias; but in training it would
    subtract the batch's mean all the same. The means of `batches`, float pixels (N, 3, H, W), become its statistics,
    and its bias gives back what they take; their variances are near the 1 that the filters were scaled for, and what
    these differ by moves probabilities by hundredths. Eval mode afterwards.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    inputs: dict[nn.Module, list[Tensor]] = {norm: [] for norm in norms}

    def note(norm: nn.Module, entering: tuple[Tensor]) -> None:
        x = entering[0].float()
        inputs[norm].append(torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))]))

    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    model.eval()
    for batch in batches:
        model(batch)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        mean, square = torch.stack(inputs[norm]).mean(0)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.bias.add_((mean - norm.running_mean) * torch.rsqrt(norm.running_var + norm.eps))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(square - mean.square())


def folded(model: nn.Module) -> bool:
    """Whether no norm of `model` subtracts anything, as in a network from an exported file."""
    means = [module.running_mean for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return bool(means) and not any(mean is not None and mean.any() for mean in means)
