"""RGB array → the model's input size."""

from __future__ import annotations

import numpy as np
import pytest

from service.preprocessing import RESIZE_POLICIES, fit


@pytest.mark.parametrize("policy", RESIZE_POLICIES)
def test_the_right_size_passes_through_untouched(policy: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert np.array_equal(fit(image, height=32, width=32, resize_policy=policy), image)


@pytest.mark.parametrize("policy", RESIZE_POLICIES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (24, 32), (31, 33), (64, 64), (480, 640)])
def test_every_size_fits(policy: str, shape: tuple[int, int]) -> None:
    row = fit(np.full((*shape, 3), 7, np.uint8), height=32, width=24, resize_policy=policy)
    assert row.shape == (32, 24, 3)
    assert row.dtype == np.uint8
    assert (row == 7).all()


@pytest.mark.parametrize("size", [100, 224, 240, 299, 300, 336, 448])
def test_the_part_that_is_kept_lies_within_the_image_however_it_is_rounded(size: int) -> None:
    for policy in RESIZE_POLICIES.values():
        for side in range(1, 700):
            for width, height in ((side, side), (4 * side, 3 * side), (3 * side, 4 * side)):
                left, top, right, bottom = policy(width, height, size, size)
                assert 0 <= left < right <= width
                assert 0 <= top < bottom <= height


def test_shorter_side_crop_keeps_the_centre() -> None:
    image = np.zeros((32, 96, 3), np.uint8)
    image[:, 32:64] = 255
    assert (fit(image, height=32, width=32, resize_policy="shorter-side-crop") == 255).all()


def test_squash_keeps_everything() -> None:
    image = np.zeros((32, 96, 3), np.uint8)
    image[:, 48:] = 255
    row = fit(image, height=32, width=32, resize_policy="squash")
    assert (row[:, 2] == 0).all()
    assert (row[:, -3] == 255).all()


def test_reduction_is_antialiased() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    row = fit(stripes, height=32, width=32, resize_policy="shorter-side-crop")
    assert np.abs(row[4:-4, 4:-4].astype(int) - 127).max() <= 2


def test_enlarging_is_bicubic() -> None:
    """Between grey values it overshoots: cubic convolution with a = -1/2 (R. G. Keys, 1981), by hand."""
    step = np.repeat(np.array([100] * 4 + [200] * 4, np.uint8), 3).reshape(1, 8, 3).repeat(8, 0)
    row = fit(step, height=16, width=16, resize_policy="squash")
    assert row[8, 4:12, 0].tolist() == [100, 98, 93, 120, 180, 207, 202, 200]
