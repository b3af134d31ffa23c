"""Pixels of every depth, with and without transparency → RGB on white."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from service import pixels
from service.decoding import decode
from service.errors import InvalidImage
from tests.conftest import encode, picture

LIMIT = 1_000_000


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGBA", (4, 4), (255, 0, 0, 0)),
        Image.new("LA", (4, 4), (0, 0)),
        Image.new("RGBA", (4, 4), (9, 9, 9, 0)).convert("PA"),
    ],
    ids=["rgba", "la", "pa"],
)
def test_transparency_is_white(image: Image.Image) -> None:
    fmt = "TIFF" if image.mode == "PA" else "PNG"
    assert (decode(encode(image, fmt), max_pixels=LIMIT) == 255).all()


def test_transparent_palette_colour_is_white() -> None:
    image = picture("red").convert("P")
    assert (decode(encode(image, "GIF", transparency=image.getpixel((0, 0))), max_pixels=LIMIT) == 255).all()


def test_half_transparency_is_blended() -> None:
    pixel = decode(encode(Image.new("RGBA", (1, 1), (0, 0, 0, 128))), max_pixels=LIMIT)[0, 0]
    assert abs(int(pixel[0]) - 127) <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_one_channel_becomes_grey_rgb(mode: str) -> None:
    image = decode(encode(Image.new("L", (3, 3), 255).convert(mode)), max_pixels=LIMIT)
    assert (image == 255).all()


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(fmt: str) -> None:
    grey = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    assert decode(encode(grey, fmt), max_pixels=LIMIT)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_float_pixels_are_refused_with_advice() -> None:
    with pytest.raises(InvalidImage, match="integer pixels"):
        decode(encode(Image.new("F", (2, 2)), "TIFF"), max_pixels=LIMIT)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_strips_are_the_whole_image(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (23, 31, 4), np.uint8)
    image = Image.fromarray(noise)
    image = Image.fromarray(noise.view(np.uint16)[..., 0]) if mode == "I;16" else image.convert(mode)
    options = {"transparency": 3} if mode in ("P", "I;16") else {}
    content = encode(image, "PNG", **options)
    whole = decode(content, max_pixels=LIMIT)
    monkeypatch.setattr(pixels, "STRIP_PIXELS", 100)
    assert np.array_equal(decode(content, max_pixels=LIMIT), whole)
