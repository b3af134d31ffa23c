"""Several trainings' worth of weights → the network in the middle of them.

The mean of weights that one network passed through at the ends of several cycles of the learning rate generalises
better than any of them (P. Izmailov et al., "Averaging weights leads to wider optima and better generalization",
2018), and with those it started from among them it keeps most of what it has unlearned since (M. Wortsman et al.,
"Robust fine-tuning of zero-shot models", 2022).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from training.architectures import Network
from training.norms import measure_statistics


@torch.no_grad()
def average(model: Network, networks: Sequence[Mapping[str, Tensor]], batches: Iterable[Tensor]) -> None:
    """Give `model` the mean weights of `networks`, each a `state_dict` of its architecture.

    The norms take the statistics of `batches`, float pixels (N, 3, H, W): those of none of the networks are those of
    the one between them. The model is left in eval mode.
    """
    for name, weight in model.state_dict().items():
        if not weight.is_floating_point():
            continue
        first, *others = (network[name].to(weight) for network in networks)
        if weight.ndim == 4:  # with a norm behind it, a filter bank's length means nothing, but decides who prevails
            others = [other * (first.norm() / other.norm()) for other in others]
        weight.copy_(torch.stack([first, *others]).mean(0))
    measure_statistics(model, batches)
