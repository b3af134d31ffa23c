"""A batch of uint8 images → the same batch, seen differently. All of it is tensor code on whole batches.

Everything random comes from the `View` that is passed in, whose generator is a pure function of seed and step:
a resumed run sees exactly the images that an uninterrupted one sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from training.device import moved


@dataclass(frozen=True)
class View:
    """Which images these are and when they are seen."""

    indices: Tensor  # int64 (N,), each image's place in the training split
    epoch: int
    seed: int
    generator: torch.Generator
    mixed: list[Tensor] = field(default_factory=list)  # float (N,): shares of each image's neighbour, in the order made

    def targets(self, labels: Tensor, classes: int) -> Tensor:
        """int64 labels (N,) → float probabilities (N, classes): of each class so much as is to be seen of it."""
        targets = nn.functional.one_hot(labels, classes).float()
        for share in self.mixed:
            targets = torch.lerp(targets, targets.roll(1, 0), share.unsqueeze(1))
        return targets


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
        rows, columns = _inside(centre[0], self.size, height), _inside(centre[1], self.size, width)
        inside = rows.unsqueeze(2) & columns.unsqueeze(1)  # (N, H, W)
        grey = moved(torch.tensor([125, 123, 114], dtype=torch.uint8), images.device)  # CIFAR-10's mean pixel
        return torch.where(inside.unsqueeze(3), grey, images)


@dataclass(frozen=True)
class Mixup:
    """Blend each image with its neighbour in the batch, whose part is uniform up to `share` (H. Zhang et al., 2017)."""

    share: float

    def __call__(self, images: Tensor, view: View) -> Tensor:
        shares = moved(self.share * torch.rand((len(images), 1, 1, 1), generator=view.generator), images.device)
        view.mixed.append(shares.flatten())
        return torch.lerp(images.float(), images.roll(1, 0).float(), shares).round().byte()


@dataclass(frozen=True)
class CutMix:
    """Cover a part of so many of the images with that of their neighbours in the batch (S. Yun et al., 2019).

    The part is a rectangle of the image's proportions; its area is uniform up to the whole, its centre anywhere, and
    what is over the border is cut off.
    """

    probability: float

    def __call__(self, images: Tensor, view: View) -> Tensor:
        n, height, width, _ = images.shape
        draws = moved(torch.rand((4, n, 1), generator=view.generator), images.device)
        side = draws[0].sqrt() * (draws[1] < self.probability)
        rows = _inside(draws[2], (side * height).round(), height)
        columns = _inside(draws[3], (side * width).round(), width)
        covered = rows.unsqueeze(2) & columns.unsqueeze(1)  # (N, H, W)
        view.mixed.append(covered.flatten(1).float().mean(1))
        return torch.where(covered.unsqueeze(3), images.roll(1, 0), images)


def _inside(centre: Tensor, size: Tensor | int, length: int) -> Tensor:
    """Which of `length` places (N, length) are among the `size` ones around `centre`, 0 … 1 (N, 1)."""
    start = (centre * length).floor() - size // 2
    position = torch.arange(length, device=centre.device)
    return (position >= start) & (position < start + size)


def _reflect(index: Tensor, length: int) -> Tensor:
    """Fold positions beyond the border back inside, without repeating the border pixel."""
    index = index.abs()
    return length - 1 - (length - 1 - index).abs()


AUGMENTATIONS: dict[str, Augmentation] = {
    "alternating-flip": alternating_flip,
    "crop-2": RandomCrop(2),
    "crop-4": RandomCrop(4),
    "cutout-12": Cutout(12),
    "mixup": Mixup(0.5),
    "cutmix-50": CutMix(0.5),
}
