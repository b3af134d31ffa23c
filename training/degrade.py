"""A batch of uint8 images → the same as uploads are: some JPEGs, some grey, dark, noisy, enlarged or distorted.

Only the student sees this; its teachers answer for the pixels as they were. Each row leaves most images alone.
Three of them are, or are much like, corruptions of CIFAR-10-C: JPEG, which is what a service is sent, noise, which
every sensor adds, and enlarging, which blurs as a lens out of focus does. What is measured on those by a network that
has seen them says nothing of the unforeseen: see `SEEN`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import simplejpeg
import torch
from torch import Tensor
from torch.nn import functional as F

from training.device import moved

SMALLEST = 1e-8  # what a random number of 0, one in 2 ** 24, counts as in a logarithm; the next is six times as large
Degradation = Callable[[Tensor, torch.Generator], Tensor]  # uint8 (N, H, W, 3) → uint8 (N, H, W, 3)


@dataclass(frozen=True)
class Some:
    """Degrade a random part of the batch, `share` of it on average, and leave the rest as it is."""

    share: float
    degradation: Degradation

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        chosen = (torch.rand(len(images), generator=generator) < self.share).nonzero().flatten()
        if not len(chosen):
            return images
        chosen = moved(chosen, images.device)
        return images.index_copy(0, chosen, self.degradation(images[chosen], generator))


def jpeg(images: Tensor, generator: torch.Generator) -> Tensor:
    """Encode and decode each image with a quality of 30 to 95 and, as cameras do, chroma at half the resolution."""
    return reencode(images, torch.randint(30, 96, (len(images),), generator=generator).tolist())


def reencode(images: Tensor, qualities: list[int]) -> Tensor:
    """Each image encoded as JPEG of its quality, 4:2:0, and decoded: uint8 (N, H, W, 3)."""
    decoded = [
        torch.from_numpy(simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(image, quality, colorsubsampling="420")))
        for image, quality in zip(images.cpu().contiguous().numpy(), qualities, strict=True)
    ]
    return moved(torch.stack(decoded), images.device)


def grey(images: Tensor, _generator: torch.Generator) -> Tensor:
    """The luma of ITU-R BT.601, in all three channels."""
    luma = images.float() @ moved(torch.tensor([0.299, 0.587, 0.114]), images.device)
    return luma.round().byte().unsqueeze(3).expand_as(images)


def dark(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image with 15 % to all of its light; what the eight bits no longer tell apart is lost."""
    light = moved(torch.empty((len(images), 1, 1, 1)).uniform_(0.15, 1, generator=generator), images.device)
    return (images.float() * light).round().byte()


def noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise, its deviation in each image uniform up to a tenth of white (E. Rusak et al., 2020)."""
    deviation = 25.5 * torch.rand((len(images), 1, 1, 1), generator=generator)
    drawn = deviation * torch.randn(images.shape, generator=generator)
    return (images.float() + moved(drawn, images.device)).clamp(0, 255).round().byte()


def enlarged(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image shrunk to three to seven eighths of its size and enlarged again, as small pictures are."""
    height, width = images.shape[1:3]
    eighths = torch.randint(3, 8, (len(images),), generator=generator)
    pixels = images.permute(0, 3, 1, 2).float()
    for part in range(3, 8):
        rows = moved((eighths == part).nonzero().flatten(), images.device)
        if len(rows):
            small = _resize(pixels[rows], (height * part // 8, width * part // 8))
            pixels[rows] = _resize(small, (height, width))
    return pixels.clamp(0, 255).round().byte().permute(0, 2, 3, 1)


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(pixels, size, mode="bilinear", antialias=True)


@dataclass(frozen=True)
class AugMix:
    """Blend each image with a random mixture of chains of mild distortions.

    D. Hendrycks et al., "AugMix" (2020), with its three chains of one to three operations and Dirichlet(1) and
    Beta(1) weights; in place of its consistency loss the student has one target for every distortion.
    """

    chains: int = 3
    depth: int = 3

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        n, device = len(images), images.device
        pixels = images.permute(0, 3, 1, 2).float()  # (N, 3, H, W)
        x = pixels.repeat(self.chains, 1, 1, 1)
        lengths = torch.randint(1, self.depth + 1, (len(x),), generator=generator)
        for place in range(self.depth):
            drawn = torch.randint(len(OPERATIONS), (len(x),), generator=generator)
            levels = moved(0.6 * torch.rand(len(x), generator=generator) - 0.3, device)
            drawn[lengths <= place] = -1  # this chain has ended
            for number, operation in enumerate(OPERATIONS):
                rows = (drawn == number).nonzero().flatten()
                if len(rows):
                    rows = moved(rows, device)
                    x[rows] = operation(x[rows], levels[rows])
        drawn_weights = torch.rand((self.chains, n, 1, 1, 1), generator=generator).clamp_min(SMALLEST)
        weights = moved(drawn_weights, device).log()  # exponentials, but for their sign
        mixture = (x.view(self.chains, *pixels.shape) * (weights / weights.sum(0))).sum(0)
        share = moved(torch.rand((n, 1, 1, 1), generator=generator), device)
        return pixels.lerp(mixture, share).clamp(0, 255).round().byte().permute(0, 2, 3, 1)


def _autocontrast(x: Tensor, _level: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) * (255 / (high - low).clamp_min(1)), x)


def _equalize(x: Tensor, _level: Tensor) -> Tensor:
    """Each channel's levels by their rank among its pixels."""
    n, channels, height, width = x.shape
    index = x.round().clamp(0, 255).long().view(n * channels, height * width)
    counts = torch.zeros((n * channels, 256), device=x.device)
    below = counts.scatter_add_(1, index, torch.ones_like(index, dtype=x.dtype)).cumsum(1)
    ranks = below.gather(1, index) - below.gather(1, index.amin(1, keepdim=True))
    return (ranks * (255 / ranks.amax(1, keepdim=True).clamp_min(1))).view(n, channels, height, width)


def _posterize(x: Tensor, level: Tensor) -> Tensor:
    """Three or four of the eight bits."""
    step = torch.where(level > 0, 32.0, 16.0).view(-1, 1, 1, 1)
    return (x / step).floor() * step


def _solarize(x: Tensor, level: Tensor) -> Tensor:
    return torch.where(x >= (256 * (1 - level.abs())).view(-1, 1, 1, 1), 255 - x, x)


def _rotate(x: Tensor, level: Tensor) -> Tensor:
    """By up to 9 degrees."""
    angle = level * (math.pi / 6)
    return _affine(x, {(0, 0): angle.cos(), (0, 1): -angle.sin(), (1, 0): angle.sin(), (1, 1): angle.cos()})


def _shear_x(x: Tensor, level: Tensor) -> Tensor:
    return _affine(x, {(0, 1): 0.3 * level})


def _shear_y(x: Tensor, level: Tensor) -> Tensor:
    return _affine(x, {(1, 0): 0.3 * level})


def _translate_x(x: Tensor, level: Tensor) -> Tensor:
    """By up to a tenth of the width."""
    return _affine(x, {(0, 2): 2 / 3 * level})


def _translate_y(x: Tensor, level: Tensor) -> Tensor:
    return _affine(x, {(1, 2): 2 / 3 * level})


def _affine(x: Tensor, entries: dict[tuple[int, int], Tensor]) -> Tensor:
    """Sample where a matrix (N, 2, 3), the identity but for `entries`, leads; the border is filled by reflection."""
    matrix = torch.eye(2, 3, device=x.device).repeat(len(x), 1, 1)
    for (row, column), values in entries.items():
        matrix[:, row, column] = values
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (  # (N, 3, H, W), levels -0.3 … 0.3 (N,) → (N, 3, H, W)
    _autocontrast,
    _equalize,
    _posterize,
    _solarize,
    _rotate,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
)

DEGRADATIONS: dict[str, Degradation] = {
    "augmix-25": Some(0.25, AugMix()),
    "augmix-40": Some(0.4, AugMix()),
    "augmix-50": Some(0.5, AugMix()),
    "dark-4": Some(0.04, dark),
    "dark-10": Some(0.1, dark),
    "enlarged-4": Some(0.04, enlarged),
    "enlarged-10": Some(0.1, enlarged),
    "grey-4": Some(0.04, grey),
    "grey-5": Some(0.05, grey),
    "grey-10": Some(0.1, grey),
    "jpeg-12": Some(0.12, jpeg),
    "jpeg-25": Some(0.25, jpeg),
    "jpeg-33": Some(0.33, jpeg),
    "noise-4": Some(0.04, noise),
    "noise-10": Some(0.1, noise),
    "noise-20": Some(0.2, noise),
}


def degrade(images: Tensor, names: Iterable[str], generator: torch.Generator) -> Tensor:
    """`images` after each of the degradations `names`."""
    for name in names:
        images = DEGRADATIONS[name](images, generator)
    return images


SEEN = {  # corruptions much like a degradation: nearer to pictures that went through it than to those that did not
    "enlarged": ("defocus-blur",),
    "jpeg": ("jpeg",),
    "noise": ("gaussian-noise", "shot-noise"),
}


def seen_corruptions(degradations: Iterable[str]) -> tuple[str, ...]:
    """Those in `training.corruptions` that a network trained with `degradations` was prepared for."""
    return tuple(corruption for name in degradations for corruption in SEEN.get(name.partition("-")[0], ()))
