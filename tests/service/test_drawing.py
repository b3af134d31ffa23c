"""Arrays → pictures: what is large is bright, and every value is where it belongs."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from service.drawing import contact_sheet, data_url, heat_map


def pixels(png: bytes) -> npt.NDArray[np.int64]:
    """(H, W, 4), red to alpha."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")).astype(np.int64)


def test_positive_is_orange_negative_is_blue_and_zero_is_black() -> None:
    sheet = pixels(contact_sheet(np.array([[[1, -1, 0]]], np.float32)))
    (positive, negative, zero), *_ = sheet
    assert positive[0] > positive[2] + 100
    assert negative[2] > negative[0] + 100
    assert max(zero[:3]) < 20
    assert (sheet[..., 3] == 255).all()


def test_channels_stand_in_rows_with_nothing_between_them() -> None:
    channels = np.zeros((3, 2, 2), np.float32)
    channels[1, 0, 1] = channels[2, 1, 0] = 1
    sheet = pixels(contact_sheet(channels))
    assert sheet.shape == (5, 5, 4)
    bright = {(int(y), int(x)) for y, x in np.argwhere(sheet[..., 0] > 200)}
    assert bright == {(0, 4), (4, 0)}
    opaque = sheet[..., 3] == 255
    assert not opaque[2].any()
    assert not opaque[:, 2].any()
    assert not opaque[3:, 3:].any()  # a fourth channel there is not
    assert opaque.sum() == 12


def test_all_channels_share_a_scale_and_a_few_outliers_leave_the_rest_visible() -> None:
    channels = np.ones((10, 10, 10), np.float32)
    channels[0, 0, 0] = 1000
    channels[5] = 0.5
    sheet = pixels(contact_sheet(channels))
    assert sheet[0, 1, 0] == sheet[0, 0, 0] == 255
    assert 100 < sheet[11, 11, 0] < 200  # the sixth of four columns


@pytest.mark.parametrize("value", [0, 1e30, -1e-30])
def test_channels_of_one_value_are_drawn_too(value: float) -> None:
    assert pixels(contact_sheet(np.full((1, 2, 2), value, np.float32))).shape == (2, 2, 4)


def test_the_more_heat_the_redder_and_without_heat_the_picture_is_as_it_was() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    (cold, warm, hot), *_ = pixels(heat_map(image, np.array([[0, 1, 2]], np.float32)))[..., :3]
    assert cold.tolist() == [100, 100, 100]
    assert cold[0] < warm[0] < hot[0]
    assert cold[2] > warm[2] > hot[2]
    assert np.array_equal(pixels(heat_map(image, np.zeros((1, 3), np.float32)))[0, 0, :3], cold)


def test_a_data_url_holds_the_picture() -> None:
    head, _, text = data_url(b"abc").partition(",")
    assert (head, base64.b64decode(text)) == ("data:image/png;base64", b"abc")
