"""Degradations of whole batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training import degrade as degrading
from training.corruptions import CORRUPTIONS, corrupt
from training.degrade import (
    DEGRADATIONS,
    OPERATIONS,
    SEEN,
    AugMix,
    Degradation,
    Some,
    dark,
    enlarged,
    grey,
    jpeg,
    noise,
    seen_corruptions,
)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> Tensor:
    """Smooth pictures, as photographs are."""
    coarse = 255 * torch.rand((64, 3, 5, 5), generator=random())
    return torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear").byte().permute(0, 2, 3, 1)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_every_degradation_keeps_shape_and_type_and_is_repeatable(name: str, images: Tensor) -> None:
    before = images.clone()
    once, again = DEGRADATIONS[name](images, random()), DEGRADATIONS[name](images, random())
    assert (once.shape, once.dtype) == (images.shape, torch.uint8)
    assert torch.equal(once, again)
    assert torch.equal(images, before)
    assert not torch.equal(once, images)
    assert not torch.equal(once, DEGRADATIONS[name](images, random(1)))


@pytest.mark.parametrize(("name", "share"), [("augmix-25", 0.25), ("grey-5", 0.05), ("noise-20", 0.2)])
def test_only_its_share_of_the_images_is_touched(name: str, share: float, images: Tensor) -> None:
    many = images.repeat(32, 1, 1, 1)
    touched = (DEGRADATIONS[name](many, random()) != many).flatten(1).any(1).double().mean()
    assert abs(float(touched) - share) < 0.03


@pytest.mark.parametrize("degradation", [jpeg, grey, dark, noise, enlarged, AugMix()])
def test_a_batch_of_which_no_image_is_chosen_stays_as_it_is(degradation: Degradation, images: Tensor) -> None:
    assert torch.equal(Some(0.0, degradation)(images, random()), images)


def test_jpeg_keeps_fine_structure_in_light_and_not_in_colour(images: Tensor) -> None:
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    board = ((x + y) % 2).bool().view(1, 32, 32, 1)
    white, red, green = (torch.tensor(c, dtype=torch.uint8) for c in ((255, 255, 255), (255, 0, 0), (0, 130, 0)))
    light = jpeg(torch.where(board, white, 0 * white), random()).float()
    colour = jpeg(torch.where(board, red, green), random()).float()
    assert float(light.std((1, 2)).mean()) > 100
    assert float(colour.std((1, 2)).mean()) < 10  # it was 100 in red and 65 in green
    assert 0.5 < float((jpeg(images, random()).float() - images.float()).abs().mean()) < 8


def test_no_jpeg_is_worse_than_quality_30_or_better_than_95(monkeypatch: pytest.MonkeyPatch, images: Tensor) -> None:
    monkeypatch.setattr(degrading, "reencode", lambda _, drawn: torch.tensor(drawn))
    qualities = jpeg(images.repeat(64, 1, 1, 1), random()).tolist()
    assert (min(qualities), max(qualities)) == (30, 95)


def test_grey_is_the_luma_in_every_channel() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(1, 2, 2, 3)
    assert torch.equal(grey(red, random()), torch.full((1, 2, 2, 3), 76, dtype=torch.uint8))


def test_dark_images_have_a_part_of_the_light_in_every_pixel() -> None:
    white = torch.full((256, 2, 2, 3), 255, dtype=torch.uint8)
    light = dark(white, random()).flatten(1)
    assert bool((light == light[:, :1]).all())
    assert int(light.min()) in range(38, 60)
    assert int(light.max()) in range(230, 256)


def test_noise_has_no_bias_and_at_most_a_tenth_of_whites_deviation() -> None:
    middle = torch.full((256, 32, 32, 3), 128, dtype=torch.uint8)
    difference = noise(middle, random()).float() - 128
    deviations = difference.flatten(1).std(1)
    assert abs(float(difference.mean())) < 0.1
    assert float(deviations.min()) < 2
    assert 23 < float(deviations.max()) < 27


@pytest.mark.parametrize("level", [0, 255])
def test_noise_does_not_turn_black_into_white_or_white_into_black(level: int) -> None:
    plain = torch.full((64, 8, 8, 3), level, dtype=torch.uint8)
    assert int((noise(plain, random()).int() - level).abs().max()) < 128


def test_enlarged_images_have_lost_their_finest_structure_and_keep_their_light(images: Tensor) -> None:
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    board = (255 * ((x + y) % 2)).byte().view(1, 32, 32, 1).expand(64, 32, 32, 3)
    blurred = enlarged(board, random()).float()
    assert float(blurred.std((1, 2)).max()) < 80  # it was 128
    assert abs(float(blurred.mean()) - 127.5) < 1
    assert float((enlarged(images, random()).float() - images.float()).abs().mean()) < 4


def test_three_to_seven_eighths_are_what_images_shrink_to(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, resize = set[tuple[int, int]](), degrading._resize

    def recorded(pixels: Tensor, size: tuple[int, int]) -> Tensor:
        sizes.add(size)
        return resize(pixels, size)

    monkeypatch.setattr(degrading, "_resize", recorded)
    enlarged(images[:, :24], random())
    assert sizes == {(9, 12), (12, 16), (15, 20), (18, 24), (21, 28), (24, 32)}


def test_what_a_network_was_prepared_for_is_told_in_the_names_of_the_corruptions() -> None:
    assert seen_corruptions(["augmix-40", "dark-10", "noise-20", "jpeg-33"]) == ("gaussian-noise", "shot-noise", "jpeg")
    assert seen_corruptions(["dark-4", "enlarged-4", "jpeg-12"]) == ("defocus-blur", "jpeg")
    assert {corruption for alike in SEEN.values() for corruption in alike} <= set(CORRUPTIONS)
    assert set(SEEN) <= {name.partition("-")[0] for name in DEGRADATIONS}


def test_a_picture_out_of_focus_is_nearer_to_an_enlarged_one_than_to_itself() -> None:
    board = torch.randint(0, 2, (64, 3, 16, 16), generator=random()).float() * 255
    sharp = torch.nn.functional.interpolate(board, (32, 32)).byte().permute(0, 2, 3, 1)
    seen = [enlarged(sharp, random(seed)) for seed in range(9)]
    (alike,) = SEEN["enlarged"]
    for severity in (4, 5):
        blurred = corrupt(sharp, alike, severity).float()
        to_itself, *to_seen = ((each - blurred).square().mean((1, 2, 3)) for each in (sharp, *seen))
        assert bool((torch.stack(to_seen).amin(0) < to_itself / 4).all())


def test_a_random_number_of_zero_makes_no_black_picture(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    rand = torch.rand

    def with_a_zero(size: tuple[int, ...] | int, generator: torch.Generator) -> Tensor:
        drawn = rand(size, generator=generator)
        return drawn.index_fill_(0, torch.tensor(0), 0.0) if isinstance(size, tuple) and size[0] == 3 else drawn

    monkeypatch.setattr(torch, "rand", with_a_zero)
    assert float(AugMix()(images, random()).float().mean((1, 2, 3)).min()) > 60


@pytest.mark.parametrize("count", [1, 2, 64])
def test_augmix_distorts_mildly(count: int, images: Tensor) -> None:
    images = images[:count]
    mixed = AugMix()(images, random())
    differences = (mixed.float() - images.float()).abs().mean((1, 2, 3))
    assert bool((differences > 0).all())
    assert 2 < float(differences.mean()) < 40


def test_a_chain_has_one_to_three_operations_both_ways(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    met = list[Tensor]()

    def same(x: Tensor, levels: Tensor) -> Tensor:
        met.append(levels)
        return x

    monkeypatch.setattr(degrading, "OPERATIONS", (same,))
    AugMix()(images.repeat(8, 1, 1, 1), random())
    chains = 3 * 8 * len(images)
    assert len(met[0]) == chains
    assert [len(each) / chains for each in met[1:]] == pytest.approx([2 / 3, 1 / 3], abs=0.05)
    assert (float(met[0].min()), float(met[0].max())) == pytest.approx((-0.3, 0.3), abs=0.01)


def test_each_image_has_any_share_of_what_was_made_of_it(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(degrading, "OPERATIONS", (lambda x, _levels: torch.full_like(x, 255),))
    shares = AugMix()(0 * images.repeat(8, 1, 1, 1), random())[:, 0, 0, 0].float() / 255
    assert shares.sort().values.tolist() == pytest.approx(torch.linspace(0, 1, len(shares)).tolist(), abs=0.08)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_stays_within_the_pixels_range_and_does_something(
    operation: Callable[[Tensor, Tensor], Tensor], images: Tensor
) -> None:
    x = images.permute(0, 3, 1, 2).float()
    x = 10 + 230 * x / x.amax((1, 2, 3), keepdim=True)
    y = operation(x, torch.linspace(-0.3, 0.3, 64))
    assert y.shape == x.shape
    assert bool((y != x).flatten(1).any(1)[:20].all())
    assert float(y.min()) >= 0
    assert float(y.max()) <= 255.01


def test_equalized_levels_are_spread_evenly() -> None:
    x = torch.arange(1024).view(1, 1, 32, 32).div(8, rounding_mode="floor").float() + 60  # 128 levels, 60 … 187
    y = OPERATIONS[1](x, torch.zeros(1))
    assert torch.allclose(y, (x - 60) * (255 / 127))


def test_posterizing_leaves_8_levels_or_16() -> None:
    x = torch.arange(256.0).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    strong, weak = OPERATIONS[2](x, torch.tensor([0.1, -0.1]))
    assert (len(strong.unique()), len(weak.unique())) == (8, 16)


def test_solarizing_inverts_the_brightest_alone() -> None:
    x = torch.tensor([0.0, 100.0, 200.0, 250.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert OPERATIONS[3](x, torch.tensor([0.1]))[0, 0].flatten().tolist() == [0, 100, 200, 5]


def test_rotating_keeps_what_is_round() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    bowl = (100 * (x.square() + y.square())).expand(1, 3, 32, 32)
    assert float((OPERATIONS[4](bowl, torch.tensor([0.3])) - bowl)[..., 8:24, 8:24].abs().max()) < 1


def test_operations_leave_a_flat_image_flat() -> None:
    flat = torch.full((1, 3, 8, 8), 100.0)
    for operation in OPERATIONS:
        y = operation(flat, torch.full((1,), 0.2))
        assert torch.allclose(y, y[:, :1, :1, :1].expand_as(y))


@pytest.mark.parametrize(
    ("number", "matrix"),
    [
        (4, ((0.9877, -0.1564, 0), (0.1564, 0.9877, 0))),  # cosine and sine of 9 degrees
        (5, ((1, 0.09, 0), (0, 1, 0))),
        (6, ((1, 0, 0), (0.09, 1, 0))),
        (7, ((1, 0, 3.2), (0, 1, 0))),  # a tenth of the width
        (8, ((1, 0, 0), (0, 1, 3.2))),
    ],
)
def test_at_most_so_far_from_the_middle_pixels_come(number: int, matrix: tuple[tuple[float, ...], ...]) -> None:
    y, x = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(32) - 15.5, indexing="ij")
    came = OPERATIONS[number](torch.stack([x, y, 0 * x]).unsqueeze(0), torch.tensor([0.3]))[0, :2]
    expected = torch.stack([a * x + b * y + c for a, b, c in matrix])
    assert torch.allclose(came[:, 8:24, 8:24], expected[:, 8:24, 8:24], atol=1e-2)
