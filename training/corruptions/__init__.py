"""uint8 images → the same images, corrupted in one of 15 ways at one of 5 severities, always the same for a seed.

D. Hendrycks and T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations"
(2019), with the severities of their CIFAR-10-C, implemented anew. Three differ from the published files by more than
their random numbers: frost is generated here and photographed there, and zooming resamples and the elastic field ends
at the image's edges a little differently.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from training.corruptions import blur, digital, noise, weather

SEVERITIES = (1, 2, 3, 4, 5)
CHUNK = 1_000  # images that share a generator: part of what makes the result repeatable

Corruption = Callable[[Tensor, int, torch.Generator], Tensor]  # float32 (N, 3, H, W), 0 … 1, and a severity → the same

CORRUPTIONS: dict[str, Corruption] = {
    "gaussian-noise": noise.gaussian,
    "shot-noise": noise.shot,
    "impulse-noise": noise.impulse,
    "defocus-blur": blur.defocus,
    "glass-blur": blur.glass,
    "motion-blur": blur.motion,
    "zoom-blur": blur.zoom,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic-transform": digital.elastic,
    "pixelate": digital.pixelate,
    "jpeg": digital.jpeg,
}


def corrupt(images: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """uint8 (N, H, W, 3) → uint8 (N, H, W, 3)."""
    corrupted = []
    for number, chunk in enumerate(torch.split(images, CHUNK)):
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {severity} {seed} {number}".encode()))
        pixels = chunk.permute(0, 3, 1, 2).float() / 255
        result = CORRUPTIONS[name](pixels, severity, generator).clamp(0, 1)
        corrupted.append((255 * result + 1e-3).byte().permute(0, 2, 3, 1))  # truncated, but for rounding errors
    return torch.cat(corrupted).contiguous()
