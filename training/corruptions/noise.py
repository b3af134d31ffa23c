"""Corruptions of single values: what sensors add in the dark, and what transmission breaks."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Normal noise, as in low light."""
    deviation = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return x + deviation * torch.randn(x.shape, generator=generator)


def shot(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Poisson noise: light comes in photons, here in so many for white."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return torch.poisson(x * photons, generator=generator) / photons


def impulse(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """A share of the values is 0 or 1: salt and pepper, in each channel by itself."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    drawn = torch.rand(x.shape, generator=generator)
    return torch.where(drawn < share / 2, 0.0, torch.where(drawn < share, 1.0, x))
