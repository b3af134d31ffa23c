"""Corruptions by mixing neighbouring pixels: lens, glass, movement, zoom; and the resampling that others use too."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def defocus(x: Tensor, severity: int, _generator: torch.Generator) -> Tensor:
    """Each point becomes a disc, whose edge is softened by a 3 × 3 Gaussian."""
    radius, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    place = torch.arange(-2.0, 3.0)
    disc = (place.square().unsqueeze(1) + place.square() <= radius**2).float()
    edge = torch.exp(-torch.tensor([1.0, 0.0, 1.0]) / (2 * softness**2))
    edge = edge / edge.sum()
    kernel = F.conv2d((disc / disc.sum()).view(1, 1, 5, 5), torch.outer(edge, edge).view(1, 1, 3, 3), padding=2)
    return F.conv2d(F.pad(x, (3, 3, 3, 3), mode="reflect"), kernel.expand(3, 1, 7, 7), groups=3)


def glass(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Frosted glass: blurred, then most pixels take the value of themselves or of one above or left, then blurred."""
    sigma, rounds = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]
    x = smooth(x, sigma)
    n, _, height, width = x.shape
    first = torch.arange(n)
    for _ in range(rounds):
        up, left = torch.randint(0, 2, (2, n, height, width), generator=generator)
        for row in range(height - 1, 1, -1):
            for column in range(width - 1, 1, -1):
                x[:, :, row, column] = x[first, :, row - up[:, row, column], column - left[:, row, column]]
    return smooth(x, sigma)


def motion(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """The camera moves in a direction within 45° of the horizontal."""
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity - 1]
    angles = (torch.rand(len(x), generator=generator) - 0.5) * (math.pi / 2)
    return smear(x, radius, sigma, angles)


def zoom(x: Tensor, severity: int, _generator: torch.Generator) -> Tensor:
    """The mean over pictures taken while zooming in, by up to 5, 10, 15, 20 or 25 %."""
    factors = [1 + 0.01 * step for step in range(5 * severity + 1)]
    total = x.clone()
    for factor in factors:
        total += enlarge(x, factor)
    return total / (len(factors) + 1)


def smooth(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (N, C, H, W) with standard deviation `sigma` in pixels."""
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return x.clone()
    kernel = torch.exp(-torch.arange(-radius, radius + 1.0).square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    padded = F.pad(x, (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.unsqueeze(2), groups=x.shape[1]), kernel.unsqueeze(3), groups=x.shape[1])


def smear(x: Tensor, radius: int, sigma: float, angles: Tensor) -> Tensor:
    """Blur (N, C, H, W) to one side along each image's angle (N,), with half a Gaussian of 2 × radius + 1 points."""
    n, _, height, width = x.shape
    steps = torch.arange(2 * radius + 1.0)
    weights = torch.exp(-steps.square() / (2 * sigma**2))
    first = torch.arange(n).view(-1, 1, 1)
    rows, columns = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    result = torch.zeros_like(x)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        down, right = ((step * way).round().long().view(-1, 1, 1) for way in (angles.sin(), angles.cos()))
        taken = x[first, :, (rows + down).clamp(0, height - 1), (columns + right).clamp(0, width - 1)]
        result += weight * taken.permute(0, 3, 1, 2)
    return result


def enlarge(x: Tensor, factor: float) -> Tensor:
    """The middle of (N, C, H, W), `factor` times as large, in the same frame."""
    matrix = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]).expand(len(x), 2, 3)
    return sample(x, F.affine_grid(matrix, list(x.shape), align_corners=False))


def sample(x: Tensor, grid: Tensor) -> Tensor:
    """Bilinear values of (N, C, H, W) at `grid` (N, H, W, 2), in -1 … 1; what lies outside is a reflection."""
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
