"""A batch of uint8 images → the same batch, seen differently. All of it is tensor code on whole batches.

Everything random comes from the `View` that is passed in, whose generator is a pure function of seed and step:
a resumed run sees exactly the images that an uninterrupted one sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.device import moved


@dataclass(frozen=True)
class View:
    """Which images these are and when they are seen."""

    indices: Tensor  # int64 (N,), each image's place in the training split
    epoch: int
    seed: int
    generator: torch.Generator


Augmentation = Callable[[Tensor, View], Tensor]  # uint8 (N, H, W, 3) → uint8 (N, H, W, 3)


def alternating_flip(images: Tensor, view: View) -> Tensor:
    """Mirror a fixed half of the images in even epochs and the other half in odd ones.

    Each pair of epochs shows every image both ways round (K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a
    single GPU", 2024). Which half is a hash of the image's index, so it needs no state.
    """
    first_epoch = ((view.indices + view.seed) * 2654435761 >> 15) & 1  # Knuth's multiplicative hash
    mirrored = moved((first_epoch ^ (view.epoch & 1)).bool(), images.device)
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(2), images)


@dataclass(frozen=True)
class RandomCrop:
    """Shift each image by up to `padding` pixels in both directions; the border is filled by reflection."""

    padding: int

    def __call__(self, images: Tensor, view: View) -> Tensor:
        n, height, width, _ = images.shape
        shift = torch.randint(-self.padding, self.padding + 1, (2, n, 1), generator=view.generator)
        shift = moved(shift, images.device)
        rows = _reflect(torch.arange(height, device=images.device) + shift[0], height)  # (N, H)
        columns = _reflect(torch.arange(width, device=images.device) + shift[1], width)  # (N, W)
        first = torch.arange(n, device=images.device).view(-1, 1, 1)
        return images[first, rows.unsqueeze(2), columns.unsqueeze(1)]


@dataclass(frozen=True)
class Cutout:
    """Grey out one random square per image (T. DeVries and G. Taylor, 2017); it may reach over the border."""

    size: int

    def __call__(self, images: Tensor, view: View) -> Tensor:
        n, height, width, _ = images.shape
        centre = moved(torch.rand((2, n, 1), generator=view.generator), images.device)
        inside_rows = self._inside(centre[0], height)
        inside_columns = self._inside(centre[1], width)
        inside = inside_rows.unsqueeze(2) & inside_columns.unsqueeze(1)  # (N, H, W)
        grey = moved(torch.tensor([125, 123, 114], dtype=torch.uint8), images.device)  # CIFAR-10's mean pixel
        return torch.where(inside.unsqueeze(3), grey, images)

    def _inside(self, centre: Tensor, length: int) -> Tensor:
        start = (centre * length).floor() - self.size // 2
        position = torch.arange(length, device=centre.device)
        return (position >= start) & (position < start + self.size)


@dataclass(frozen=True)
class Mixup:
    """Blend each image with its neighbour in the batch, whose part is uniform up to `share` (H. Zhang et al., 2017).

    The label no longer tells what is to be seen: for recipes with teachers, which do.
    """

    share: float

    def __call__(self, images: Tensor, view: View) -> Tensor:
        shares = moved(self.share * torch.rand((len(images), 1, 1, 1), generator=view.generator), images.device)
        return torch.lerp(images.float(), images.roll(1, 0).float(), shares).round().byte()


def _reflect(index: Tensor, length: int) -> Tensor:
    """Fold positions beyond the border back inside, without repeating the border pixel."""
    index = index.abs()
    return length - 1 - (length - 1 - index).abs()


AUGMENTATIONS: dict[str, Augmentation] = {
    "alternating-flip": alternating_flip,
    "crop-2": RandomCrop(2),
    "crop-4": RandomCrop(4),
    "cutout-8": Cutout(8),
    "cutout-12": Cutout(12),
    "mixup": Mixup(0.5),
}
