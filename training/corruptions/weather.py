"""Corruptions by what is between camera and subject: snow, frost, fog."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.corruptions.blur import enlarge, smear

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
FROST_COLOUR = torch.tensor([0.85, 0.95, 1.0]).view(1, 3, 1, 1)


def snow(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """White flakes that fall in streaks, on a picture that they make paler."""
    mean, deviation, size, threshold, radius, sigma, kept = (
        (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
    )[severity - 1]
    n, _, height, width = x.shape
    flakes = enlarge(mean + deviation * torch.randn((n, 1, height, width), generator=generator), size)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    angles = (torch.rand(n, generator=generator) - 1.5) * (math.pi / 2)  # downwards, give or take 45°
    flakes = smear(flakes, radius, sigma, angles)
    pale = torch.maximum(x, 1.5 * (x * LUMA).sum(1, keepdim=True) + 0.5)
    return kept * x + (1 - kept) * pale + flakes + flakes.rot90(2, (2, 3))


def frost(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Crystals on the pane: the ridges of a fractal surface, bluish white."""
    kept, added = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    n, _, height, width = x.shape
    surface = plasma(n, height, width, 1.6, generator)
    crystals = (1 - (2 * surface - 1).abs()).pow(2).unsqueeze(1)
    return kept * x + added * crystals * FROST_COLOUR


def fog(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Swathes of white; the whole is then scaled so that its brightest value stays what it was."""
    amount, smoothness = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[severity - 1]
    n, _, height, width = x.shape
    brightest = x.amax((1, 2, 3), keepdim=True)
    swathes = plasma(n, height, width, smoothness, generator).unsqueeze(1)
    return (x + amount * swathes) * (brightest / (brightest + amount))


def plasma(n: int, height: int, width: int, smoothness: float, generator: torch.Generator) -> Tensor:
    """Fractal surfaces (n, height, width) from 0 to 1 by midpoint displacement ("diamond-square") on a torus.

    At each halving of the grid the square of the displacement's range is divided by the square of `smoothness`.
    """
    size = 1 << (max(height, width) - 1).bit_length()
    surface = torch.zeros((n, size, size))
    amplitude, step = 100.0, size
    while step > 1:
        half, grid = step // 2, (slice(None), slice(0, None, step), slice(0, None, step))
        corners = surface[grid]
        middle = corners + corners.roll(-1, 1)
        surface[:, half::step, half::step] = _displaced(middle + middle.roll(-1, 2), amplitude, generator)
        centres = surface[:, half::step, half::step]
        across = centres + centres.roll(1, 1) + corners + corners.roll(-1, 2)
        surface[:, 0::step, half::step] = _displaced(across, amplitude, generator)
        along = centres + centres.roll(1, 2) + corners + corners.roll(-1, 1)
        surface[:, half::step, 0::step] = _displaced(along, amplitude, generator)
        step, amplitude = half, amplitude / smoothness
    surface = surface - surface.amin((1, 2), keepdim=True)
    return (surface / surface.amax((1, 2), keepdim=True))[:, :height, :width]


def _displaced(sum_of_four: Tensor, amplitude: float, generator: torch.Generator) -> Tensor:
    return sum_of_four / 4 + amplitude**2 * (2 * torch.rand(sum_of_four.shape, generator=generator) - 1)
