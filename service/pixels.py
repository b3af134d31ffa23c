"""An image that Pillow has opened → RGB, upright, on white where it is transparent, whatever its depth.

Raises `InvalidImage` for pixels that have no agreed range, and what Pillow does for damaged ones.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageOps
from PIL.ImageFile import ImageFile

from service.errors import InvalidImage
from service.types import RGBImage

WHITE = (255, 255, 255, 255)
STRIP_PIXELS = 1 << 20  # how many become RGB at once
BIT_DEPTH = 24  # the byte of a PNG that tells it (PNG, 11.2.2)


@dataclass(frozen=True, slots=True)
class Grey:
    """What the levels of grayscale with more than 8 bits mean."""

    highest: int = 65535
    inverted: bool = False  # which is white otherwise


def scale_transparency(image: ImageFile, data: bytes) -> None:
    """The transparent grey or colour of a PNG to 8 bits, as its pixels are: Pillow scales those, and leaves this."""
    transparent, depth = image.info["transparency"], data[BIT_DEPTH]
    if image.mode == "L":
        image.info["transparency"] = transparent * 255 // (2**depth - 1)
    elif image.mode == "RGB" and depth == 16:
        _match_16_bits(image, data)


def _match_16_bits(image: ImageFile, data: bytes) -> None:
    """Alpha by the transparent colour of a PNG of 16 bits: Pillow has the upper byte of each, which others share."""
    levels = image.info["transparency"]
    alphas = []
    with Image.open(io.BytesIO(data), formats=("PNG",)) as lower:
        lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]  # the other byte, as if it came second
        for half, shift in ((lower, 0), (image, 8)):
            half.info["transparency"] = tuple(level >> shift & 255 for level in levels)
            alphas.append(half.convert("RGBA").getchannel("A"))
    image.putalpha(ImageChops.lighter(*alphas))


def to_rgb(image: Image.Image, grey: Grey) -> RGBImage:
    """A strip at a time: what is made on the way would take several times the memory of the image."""
    image.load()
    with suppress(Exception):  # what the file says about its picture may be damaged where the picture is not
        ImageOps.exif_transpose(image, in_place=True)  # else it copies what stands upright already
    rows = max(1, STRIP_PIXELS // image.width)
    if rows >= image.height:
        return _strip_to_rgb(image, grey)
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb[top : top + rows] = _strip_to_rgb(strip, grey)
    return rgb


def _strip_to_rgb(image: Image.Image, grey: Grey) -> RGBImage:
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bit(image, grey)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _to_8_bit(image: Image.Image, levels: Grey) -> Image.Image:
    """Grayscale of more than 8 bits → 8 bits, by its own depth: Pillow would clip instead of scaling."""
    if image.mode == "F":
        raise InvalidImage("Floating-point pixels have no agreed range; send an image with integer pixels.")
    values = np.asarray(image)
    scaled = values.clip(0, levels.highest).astype(np.uint32)
    scaled *= 255
    scaled //= levels.highest
    grey = Image.fromarray((255 - scaled if levels.inverted else scaled).astype(np.uint8))
    if (transparent := image.info.get("transparency")) is not None:  # one grey, by its 16 bits
        grey.putalpha(Image.fromarray(np.where(values == transparent, np.uint8(0), np.uint8(255))))
    return grey
