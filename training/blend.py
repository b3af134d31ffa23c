"""What a run started from and what it became → the network between them, which keeps what either would forget.

M. Wortsman et al., "Robust fine-tuning of zero-shot models" (2022): along the line from a network that has seen every
kind of damage to the same one after a while on undamaged pictures alone, both accuracies stay near their best.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from training.architectures import Network


@torch.no_grad()
def blend(model: Network, start: Mapping[str, Tensor], share: float, batches: Iterable[Tensor]) -> None:
    """Move the weights of `model` by `share` of the way back to those in `start`.

    `start` is a `state_dict` of the same architecture. The norms take the statistics of `batches`, float pixels
    (N, 3, H, W): those of neither network are those of one between them. The model is left in eval mode.
    """
    for name, weight in model.state_dict().items():
        if not weight.is_floating_point():
            continue
        origin = start[name].to(weight)
        if weight.ndim == 4:  # with a norm behind it, a filter bank's length means nothing, but decides who prevails
            origin = origin * (weight.norm() / origin.norm())
        weight.lerp_(origin, share)
    measure_statistics(model, batches)


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
