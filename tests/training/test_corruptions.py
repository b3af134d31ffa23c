"""The 15 corruptions: repeatable, rising with severity, and each what it says."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from torch import Tensor

from training.corruptions import CHUNK, CORRUPTIONS, SEVERITIES, Corruption, blur, corrupt, digital, noise, weather


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Smooth pictures with some texture, as photographs are."""
    coarse = 40 + 160 * torch.rand((32, 3, 6, 6), generator=random())
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    texture = 12 * torch.randn(smooth.shape, generator=random(1))
    return (smooth + texture).clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def flat(level: float, count: int = 64) -> Tensor:
    return torch.full((count, 3, 32, 32), level)


def test_there_are_fifteen() -> None:
    assert len(CORRUPTIONS) == 15


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_repeatable_and_leaves_its_input_alone(name: str, images: Tensor) -> None:
    before = images.clone()
    once, again = corrupt(images, name, 3), corrupt(images, name, 3)
    assert (once.shape, once.dtype) == (images.shape, torch.uint8)
    assert torch.equal(once, again)
    assert torch.equal(images, before)
    assert (once != images).flatten(1).any(1).all()


@pytest.mark.parametrize("name", sorted(CORRUPTIONS.keys() - {"elastic-transform"}))  # it gets finer, not larger
def test_the_highest_severity_damages_more_than_the_lowest(name: str, images: Tensor) -> None:
    low, high = (float((corrupt(images, name, s).float() - images.float()).abs().mean()) for s in (1, 5))
    assert 0.1 < low < high < 130


@pytest.mark.parametrize("name", ["gaussian-noise", "glass-blur", "motion-blur", "snow", "frost", "fog", "shot-noise"])
def test_another_seed_gives_other_random_numbers(name: str, images: Tensor) -> None:
    assert not torch.equal(corrupt(images, name, 3, seed=0), corrupt(images, name, 3, seed=1))


@pytest.mark.parametrize("name", ["contrast", "defocus-blur", "motion-blur", "zoom-blur"])
def test_a_plain_picture_stays_as_bright_as_it_is_though_values_are_rounded_down(name: str) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(256, 32, 32, 3)
    assert torch.equal(corrupt(levels, name, 1), levels)


def test_every_chunk_has_random_numbers_of_its_own(images: Tensor) -> None:
    many = images[:1].expand(CHUNK + 1, -1, -1, -1)
    noisy = corrupt(many, "gaussian-noise", 1)
    assert len(noisy) == CHUNK + 1
    assert not torch.equal(noisy[0], noisy[CHUNK])


def test_noise_has_the_deviation_of_its_severity() -> None:
    for severity, deviation in zip(SEVERITIES, (0.04, 0.06, 0.08, 0.09, 0.10), strict=True):
        assert float(noise.gaussian(flat(0.5), severity, random()).std()) == pytest.approx(deviation, rel=0.01)
    for severity, photons in zip(SEVERITIES, (500, 250, 100, 75, 50), strict=True):
        assert float(noise.shot(flat(0.5), severity, random()).std()) == pytest.approx(
            math.sqrt(0.5 / photons), rel=0.02
        )
    impulses = noise.impulse(flat(0.5), 5, random())
    assert float((impulses == 0).double().mean()) == pytest.approx(0.035, rel=0.05)
    assert float((impulses == 1).double().mean()) == pytest.approx(0.035, rel=0.05)


@pytest.mark.parametrize("corruption", [blur.defocus, blur.glass, blur.motion, blur.zoom, digital.elastic])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_what_moves_light_about_adds_none(corruption: Corruption, severity: int) -> None:
    assert torch.allclose(corruption(flat(0.4, 2), severity, random()), flat(0.4, 2), atol=1e-5)


def test_a_disc_of_three_by_three_pixels_is_the_worst_defocus() -> None:
    point = torch.zeros((1, 3, 32, 32))
    point[:, :, 16, 16] = 1
    assert torch.allclose(blur.defocus(point, 5, random())[0, :, 15:18, 15:18], torch.full((3, 3, 3), 1 / 9), atol=1e-3)


def test_motion_draws_a_line_from_each_point() -> None:
    point = torch.zeros((1, 1, 32, 32))
    point[:, :, 16, 16] = 1
    level = blur.smear(point, 6, 2.0, torch.zeros(1))[0, 0]
    assert float(level.sum()) == pytest.approx(1, abs=1e-5)
    assert torch.equal(level[16].nonzero().flatten(), torch.arange(4, 17))
    assert int((level != 0).sum()) == 13


def test_the_second_worst_is_a_pixel_and_its_four_neighbours() -> None:
    point = torch.zeros((1, 3, 32, 32))
    point[:, :, 16, 16] = 1
    plus = torch.tensor([[0, 0.2, 0], [0.2, 0.2, 0.2], [0, 0.2, 0]]).expand(3, 3, 3)
    assert torch.allclose(blur.defocus(point, 4, random())[0, :, 15:18, 15:18], plus, atol=1e-3)


def test_behind_glass_a_pixel_is_itself_or_the_one_above_or_left_of_it() -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    places = (32 * y + x).expand(4, 3, 32, 32)
    seen = blur.glass(places, 1, random())
    assert torch.equal(seen[..., :2], places[..., :2])
    assert torch.equal(seen[..., :2, :], places[..., :2, :])
    moved = (places - seen)[..., 2:, 2:]
    assert [float((moved == way).double().mean()) for way in (0, 1, 32, 33)] == pytest.approx([0.25] * 4, abs=0.02)
    assert bool(torch.isin(moved, torch.tensor([0.0, 1.0, 32.0, 33.0])).all())


@pytest.mark.parametrize(("corruption", "room", "way"), [(weather.snow, weather, -90), (blur.motion, blur, 0)])
def test_flakes_fall_and_cameras_move_sideways_give_or_take_45_degrees(
    corruption: Corruption, room: ModuleType, way: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = list[Tensor]()
    smear = blur.smear

    def recorded(x: Tensor, radius: int, sigma: float, angles: Tensor) -> Tensor:
        drawn.append(angles.rad2deg())
        return smear(x, radius, sigma, angles)

    monkeypatch.setattr(room, "smear", recorded)
    corruption(flat(0.5, 400), 3, random())
    (angles,) = drawn
    assert way - 45 <= float(angles.min()) < way - 43
    assert way + 43 < float(angles.max()) <= way + 45


def test_zoom_keeps_the_centre_and_moves_the_rim() -> None:
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    zoomed = blur.zoom(ramp, 5, random())
    assert torch.allclose(zoomed[..., 15:17], ramp[..., 15:17], atol=0.01)
    assert torch.allclose(zoomed[..., 28], ramp[..., 28] * 0.9, atol=0.02)  # the mean of 1 / (1 … 1.25)


def test_smoothing_has_the_standard_deviation_asked_for() -> None:
    point = torch.zeros((1, 1, 33, 33))
    point[:, :, 16, 16] = 1
    spread = blur.smooth(point, 2.0)[0, 0]
    distance = torch.arange(33.0) - 16
    assert float((spread.sum(0) * distance.square()).sum()) == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize(("severity", "paler"), [(1, 0.025), (2, 0.05), (3, 0.05), (4, 0.075), (5, 0.1)])
def test_between_the_flakes_black_is_paler_the_more_it_snows(severity: int, paler: float) -> None:
    assert float(weather.snow(flat(0.0), severity, random()).min()) == pytest.approx(paler)


def test_frost_on_black_is_bluish_white_and_as_bright_as_its_severity() -> None:
    red, green, blue = weather.frost(flat(0.0), 1, random()).unbind(1)
    assert (float(blue.min()), float(blue.max())) == pytest.approx((0, 0.2), abs=1e-3)
    assert torch.allclose(red, 0.85 * blue)
    assert torch.allclose(green, 0.95 * blue)


def test_plasma_is_smoother_the_faster_its_displacement_shrinks() -> None:
    rough, smooth = (weather.plasma(16, 32, 32, decay, random()) for decay in (1.5, 3.0))
    for surface in (rough, smooth):
        assert surface.shape == (16, 32, 32)
        assert float(surface.min()) == 0
        assert float(surface.max()) == 1
    assert float(smooth.diff(dim=1).abs().mean()) < 0.5 * float(rough.diff(dim=1).abs().mean())


def test_fog_keeps_the_brightest_value_and_takes_contrast() -> None:
    board = ((torch.arange(32).view(-1, 1) + torch.arange(32)) % 2).float().expand(4, 3, 32, 32) * 0.8
    foggy = weather.fog(board, 5, random())
    assert float(foggy.max()) <= 0.8 + 1e-6
    assert float(foggy.diff(dim=3).abs().mean()) < 0.5 * float(board.diff(dim=3).abs().mean())


def test_brightness_keeps_hue_and_saturation() -> None:
    x = torch.tensor([0.4, 0.2, 0.1]).view(1, 3, 1, 1)
    assert torch.allclose(digital.brightness(x, 4, random()), 1.5 * x)
    assert torch.allclose(digital.brightness(flat(0.0, 1), 5, random()), flat(0.3, 1))


def test_brightness_keeps_the_hue_of_what_is_bright_already() -> None:
    x = torch.tensor([0.9, 0.45, 0.0]).view(1, 3, 1, 1)
    assert torch.allclose(digital.brightness(x, 4, random()), x / 0.9)


@pytest.mark.parametrize("severity", SEVERITIES[1:])
def test_jpeg_gets_worse_with_every_severity(severity: int, images: Tensor) -> None:
    milder, worse = ((corrupt(images, "jpeg", s).float() - images).abs().mean() for s in (severity - 1, severity))
    assert float(milder) < float(worse)


def test_contrast_keeps_the_mean(images: Tensor) -> None:
    x = images.permute(0, 3, 1, 2) / 255
    pale = digital.contrast(x, 5, random())
    assert torch.allclose(pale.mean((2, 3)), x.mean((2, 3)), atol=1e-5)
    assert torch.allclose(pale.std((2, 3)), 0.15 * x.std((2, 3)), atol=1e-5)


def test_pixelating_leaves_fewer_pixels(images: Tensor) -> None:
    rows = corrupt(images, "pixelate", 5)[0]
    different = (rows[1:] != rows[:-1]).flatten(1).any(1)
    assert int(different.sum()) == int(32 * 0.65) - 1


def test_elastic_moves_points_by_up_to_their_share_of_the_width() -> None:
    ramp = torch.arange(32.0).expand(64, 3, 32, 32) / 32
    moved = (digital.elastic(ramp, 1, random()) - ramp)[..., 10:22, 10:22].abs() * 32
    assert 0.3 < float(moved.mean()) < 2.56
    assert float(moved.max()) < 8


def test_elastic_bends_straight_lines_the_more_the_higher_its_severity() -> None:
    ramp = torch.arange(32.0).expand(64, 3, 32, 32)
    bent = [digital.elastic(ramp, severity, random())[..., 10:22, 10:22].diff(n=2, dim=3) for severity in SEVERITIES]
    straight, *rising = (float(each.abs().mean()) for each in bent)
    assert straight < 1e-4
    assert rising == pytest.approx([0.0009, 0.038, 0.15, 0.33], rel=0.1)
