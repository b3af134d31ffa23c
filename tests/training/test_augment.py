"""Augmentations on whole batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.augment import AUGMENTATIONS, CutMix, Cutout, Mixup, RandomCrop, View, alternating_flip
from training.recipes import RECIPES


def view(n: int, *, epoch: int = 0, seed: int = 0) -> View:
    return View(torch.arange(n), epoch, seed, torch.Generator().manual_seed(seed))


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (64, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_keeps_shape_and_type_and_is_repeatable(name: str, images: Tensor) -> None:
    before = images.clone()
    once, again = AUGMENTATIONS[name](images, view(64)), AUGMENTATIONS[name](images, view(64))
    assert (once.shape, once.dtype) == (images.shape, torch.uint8)
    assert torch.equal(once, again)
    assert torch.equal(images, before)
    assert not torch.equal(once, images)


def test_two_epochs_show_both_mirrors_of_every_image(images: Tensor) -> None:
    even, odd, later = (alternating_flip(images, view(64, epoch=epoch)) for epoch in (0, 1, 2))
    for image, a, b in zip(images, even, odd, strict=True):
        assert {a.numpy().tobytes(), b.numpy().tobytes()} == {image.numpy().tobytes(), image.flip(1).numpy().tobytes()}
    assert torch.equal(even, later)


def test_mirrors_go_on_alternating_where_views_repeat() -> None:
    cycles = {config.view_cycle for config in RECIPES.values() if config.view_cycle}
    assert cycles
    assert all(cycle % 2 == 0 for cycle in cycles)


def test_about_half_of_the_images_start_mirrored() -> None:
    ramp = torch.arange(32, dtype=torch.uint8).view(1, 1, 32, 1).expand(10_000, 1, 32, 3)
    mirrored = (alternating_flip(ramp, view(10_000))[:, 0, 0, 0] == 31).double().mean()
    assert abs(float(mirrored) - 0.5) < 0.02


def test_which_half_depends_on_the_image_not_on_its_place(images: Tensor) -> None:
    order = torch.randperm(64)
    shuffled = View(order, 0, 0, torch.Generator())
    assert torch.equal(alternating_flip(images[order], shuffled), alternating_flip(images, view(64))[order])


def test_a_crop_is_a_window_of_the_reflected_image(images: Tensor) -> None:
    padded = (
        torch.nn.functional.pad(images.permute(0, 3, 1, 2).float(), (4, 4, 4, 4), mode="reflect")
        .byte()
        .permute(0, 2, 3, 1)
    )
    crops = RandomCrop(4)(images, view(64))
    shifts = set()
    for whole, crop in zip(padded, crops, strict=True):
        places = [(y, x) for y in range(9) for x in range(9) if torch.equal(whole[y : y + 32, x : x + 32], crop)]
        assert len(places) == 1
        shifts.update(places)
    assert len(shifts) > 30


def test_cutout_greys_one_square(images: Tensor) -> None:
    white = torch.full_like(images, 255)
    cut = (Cutout(8)(white, view(64)) != 255).all(3)
    for mask in cut:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert 4 <= len(rows) <= 8
        assert 4 <= len(columns) <= 8
        assert mask.sum() == len(rows) * len(columns)


def test_mixup_keeps_the_larger_part_of_each_image_and_adds_its_neighbour() -> None:
    levels = torch.tensor([0, 200, 100, 50], dtype=torch.uint8)
    images = levels.view(4, 1, 1, 1).expand(4, 8, 8, 3)
    mixed = Mixup(0.5)(images, view(4))
    shares = (mixed[:, 0, 0, 0].float() - levels) / (levels.roll(1).float() - levels)
    assert torch.equal(mixed, mixed[:, :1, :1, :1].expand_as(mixed))  # one share for the whole image
    assert bool((shares > 0).all())
    assert bool((shares <= 0.51).all())
    assert len(set(shares.tolist())) == 4


def test_cutmix_covers_a_rectangle_of_some_images_with_their_neighbours() -> None:
    levels = torch.arange(250, dtype=torch.uint8)
    images, seen = levels.view(250, 1, 1, 1).expand(250, 32, 32, 3), view(250)
    mixed = CutMix(0.5)(images, seen)
    areas = []
    for level, neighbour, image, share in zip(levels, levels.roll(1), mixed, seen.mixed[0], strict=True):
        covered = (image == neighbour).all(2)
        assert torch.equal(covered, (image != level).any(2))
        assert covered.sum() == covered.any(1).sum() * covered.any(0).sum()
        assert float(share) == pytest.approx(float(covered.float().mean()))
        areas.append(float(share))
    assert 75 < sum(area > 0 for area in areas) < 150  # a few of the rectangles are too small for a pixel
    assert max(areas) > 0.7


def test_targets_are_what_is_to_be_seen_of_each_class(images: Tensor) -> None:
    seen, labels = view(4), torch.tensor([0, 1, 1, 2])
    assert torch.equal(seen.targets(labels, 3), torch.eye(3)[labels])
    seen.mixed.append(torch.tensor([0.25, 0.5, 0.5, 0.0]))
    once = torch.tensor([[0.75, 0, 0.25], [0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]])
    assert torch.allclose(seen.targets(labels, 3), once)
    seen.mixed.append(torch.tensor([0.0, 1.0, 0.0, 0.5]))
    assert torch.allclose(seen.targets(labels, 3)[[1, 3]], torch.stack([once[0], (once[2] + once[3]) / 2]))
    both = view(64)
    for name in ("mixup", "cutmix-50"):
        AUGMENTATIONS[name](images, both)
    assert torch.allclose(both.targets(torch.arange(64) % 10, 10).sum(1), torch.ones(64))
