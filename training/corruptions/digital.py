"""Corruptions by processing: brightness, contrast, distortion, resolution, compression."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from training.corruptions.blur import sample, smooth
from training.degrade import reencode


def brightness(x: Tensor, severity: int, _generator: torch.Generator) -> Tensor:
    """A higher value in HSV, with hue and saturation as they were."""
    added = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    value = x.amax(1, keepdim=True)
    brighter = (value + added).clamp_max(1)
    return torch.where(value > 0, x * (brighter / value.clamp_min(1e-6)), brighter)


def contrast(x: Tensor, severity: int, _generator: torch.Generator) -> Tensor:
    """Every channel closer to its mean."""
    kept = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    mean = x.mean((2, 3), keepdim=True)
    return mean + kept * (x - mean)


def elastic(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Pulled at three points, and at every pixel by a smoothed random field; lengths are shares of the width."""
    strength, sigma, pull = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))[
        severity - 1
    ]
    n, _, height, width = x.shape
    third = 2 / 3  # of the half width: grids reach from -1 to 1
    points = torch.tensor([[third, third], [third, -third], [-third, -third]]).expand(n, 3, 2)
    pulled = points + 2 * pull * (2 * torch.rand((n, 3, 2), generator=generator) - 1)
    affine = torch.linalg.solve(F.pad(pulled, (0, 1), value=1.0), points).transpose(1, 2)  # where a point comes from
    x = sample(x, F.affine_grid(affine, list(x.shape), align_corners=False))
    field = 2 * torch.rand((n, 2, height, width), generator=generator) - 1
    shift = 2 * strength * smooth(field, sigma * width)
    identity = torch.eye(2, 3).expand(n, 2, 3)
    return sample(x, F.affine_grid(identity, list(x.shape), align_corners=False) + shift.permute(0, 2, 3, 1))


def pixelate(x: Tensor, severity: int, _generator: torch.Generator) -> Tensor:
    """Scaled down and up again by box filters."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    height, width = x.shape[2:]
    small = (int(width * share), int(height * share))
    box = Image.Resampling.BOX
    pictures = [Image.fromarray(image) for image in (255 * x).round().byte().permute(0, 2, 3, 1).contiguous().numpy()]
    scaled = [np.asarray(picture.resize(small, box).resize((width, height), box)) for picture in pictures]
    return torch.from_numpy(np.stack(scaled)).permute(0, 3, 1, 2) / 255


def jpeg(x: Tensor, severity: int, _generator: torch.Generator) -> Tensor:
    """Encoded with a low quality, and chroma at half the resolution (4:2:0)."""
    quality = (80, 65, 58, 50, 40)[severity - 1]
    pixels = (255 * x).round().byte().permute(0, 2, 3, 1)
    return reencode(pixels, [quality] * len(x)).permute(0, 3, 1, 2) / 255
