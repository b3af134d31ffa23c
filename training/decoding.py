"""A picture's file → pixels of a network's input size, exactly as the service makes them of an upload.

A network that is shown pictures prepared in one way and asked about others is worse than it need be. Training shares no
code with the service but the metadata, so a test holds every format against `service.decoding` and
`service.preprocessing`. What can't be decoded raises `ValueError`,
and what is too large for that its kin `TooLarge`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import cast

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageChops, ImageOps
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
ORIENTATION = 0x0112  # EXIF tag
BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, FILL_ORDER, PLANAR_CONFIGURATION = 258, 259, 262, 266, 284  # TIFF tags
UNCOMPRESSED, WHITE_IS_ZERO, REVERSED, PLANES = 1, 0, 2, 2  # values of the latter four
BIT_DEPTH = 24  # the byte of a PNG that tells it
MOST_PIXELS = 200_000_000  # of a picture: they take 600 MB, and several are decoded at a time
REDUCED_TO = 4  # times the size: how far a photo may be reduced while it is decoded
Pixels = npt.NDArray[np.uint8]  # (H, W, 3), RGB
Image.MAX_IMAGE_PIXELS = None  # the limit is ours


class TooLarge(ValueError):
    """It has more than `MOST_PIXELS`."""


def decode(content: bytes, size: int) -> Pixels:
    """The (first) image in a file, uint8 (size, size, 3): its shorter side resized, then cropped at the centre."""
    try:
        image = _jpeg(content, REDUCED_TO * size) or _any(content)
    except TooLarge:
        raise
    except Exception as exc:  # Pillow's plugins raise nearly anything on damaged files
        raise ValueError("it is no picture in a known format, or damaged") from exc
    if image.size == (size, size):
        return np.array(image)
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC, box=centre(image.width, image.height, size)))


def centre(width: int, height: int, size: int) -> tuple[float, float, float, float]:
    """The largest square in the middle, as left, upper, right and lower edge, never outside the image."""
    side = size * (min(width, height) / size)
    part_width, part_height = min(side, width), min(side, height)  # rounding may exceed it
    left, top = (width - part_width) / 2, (height - part_height) / 2
    return left, top, min(left + part_width, width), min(top + part_height, height)


def _jpeg(content: bytes, at_least: int) -> Image.Image | None:
    """Photos reduced while they are decoded; None for what Pillow has to judge."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray", "RGB") or height * width > MOST_PIXELS:
            return None
        if min(height, width) < at_least:  # of a sliver, the length alone would be reduced
            at_least = max(height, width)
        pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=at_least, min_width=at_least)
    except ValueError:
        return None
    image = Image.fromarray(pixels)
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as header:
        image.getexif()[ORIENTATION] = header.getexif().get(ORIENTATION, 1)
    return ImageOps.exif_transpose(image)


def _any(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height > MOST_PIXELS:
            raise TooLarge(f"it has more than {MOST_PIXELS:,} pixels")
        tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
        if tags.get(PLANAR_CONFIGURATION) == PLANES and _is_mistaken(image.mode, tags):
            raise ValueError("its channels are in planes that Pillow takes for others")
        if image.format == "PNG" and "transparency" in image.info:
            _bring_to_8_bits(image, content)
        frame = image.tile[0].extents if image.format == "GIF" else None
        image.load()
        upright = _upright(image)
    if upright.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if upright.mode.startswith("I"):  # 12 bits or more: Pillow would clip them instead of scaling
        upright = _to_8_bit(upright, highest=4095 if tags.get(BITS_PER_SAMPLE) == (12,) else 65535)
        if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow sees to that for fewer bits
            upright = ImageOps.invert(upright)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return _on_white(upright.convert("RGB"), frame) if frame else upright.convert("RGB")


def _on_white(screen: Image.Image, frame: tuple[int, int, int, int]) -> Image.Image:
    """White beside the first frame of a GIF, where Pillow sees the first colour."""
    white = Image.new("RGB", screen.size, "white")
    white.paste(screen.crop(frame), frame[:2])
    return white


def _is_mistaken(mode: str, tags: Mapping[int, object]) -> bool:
    """Whether Pillow sees other pixels than there are in a TIFF with a plane for each channel."""
    if mode == "LA":  # it has no place for the alpha
        return True
    if tags.get(COMPRESSION, UNCOMPRESSED) != UNCOMPRESSED:
        return False
    plain = mode == "1" or set(cast(tuple[int, ...], tags.get(BITS_PER_SAMPLE, (1,)))) == {8}
    turned = tags.get(PHOTOMETRIC, WHITE_IS_ZERO) == WHITE_IS_ZERO or tags.get(FILL_ORDER) == REVERSED
    return turned or not plain  # it takes them for bytes, the highest the brightest


def _upright(image: Image.Image) -> Image.Image:
    """As it is meant to be looked at, unless what the file says about that is damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow raises nearly anything on damaged metadata
        return image


def _bring_to_8_bits(image: ImageFile, content: bytes) -> None:
    """Transparency by a grey or colour of a PNG on the scale that Pillow brings its pixels to."""
    transparent, depth = image.info["transparency"], content[BIT_DEPTH]
    if image.mode == "L":
        image.info["transparency"] = transparent * 255 // (2**depth - 1)
    elif image.mode == "RGB" and depth == 16:
        image.putalpha(ImageChops.lighter(_alpha(content, transparent, upper=True), _alpha(content, transparent)))


def _alpha(content: bytes, transparent: tuple[int, ...], upper: bool = False) -> Image.Image:
    """Alpha by the lower bytes of each level, or by the upper ones, which are all that Pillow looks at."""
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        if not upper:
            image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
        image.info["transparency"] = tuple(level >> 8 * upper & 255 for level in transparent)
        return image.convert("RGBA").getchannel("A")


def _to_8_bit(grey: Image.Image, highest: int) -> Image.Image:
    values = np.asarray(grey)
    scaled = Image.fromarray((values.clip(0, highest).astype(np.uint32) * 255 // highest).astype(np.uint8))
    if (transparent := grey.info.get("transparency")) is not None:
        scaled.putalpha(Image.fromarray(np.where(values == transparent, np.uint8(0), np.uint8(255))))
    return scaled
