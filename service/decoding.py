"""Encoded bytes → RGB array. The bytes decide what they are, never the declared type.

The size is read from the header and checked before any pixel is decoded. Whatever is wrong with an image raises
`InvalidImage` or its kin `ImageTooLarge`; nothing else leaves this room.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from service.errors import ImageTooLarge, InvalidImage
from service.types import RGBImage

WHITE = (255, 255, 255, 255)


@dataclass(frozen=True, slots=True)
class Decoder:
    """A format: how its first bytes look, and the name Pillow has for it."""

    media_type: str
    matches: Callable[[bytes], bool]
    pillow_format: str


def decode(data: bytes, *, max_pixels: int) -> RGBImage:
    """The (first) image in `data` as uint8 (H, W, 3), upright, on white where it is transparent."""
    decoder = next((decoder for decoder in DECODERS.values() if decoder.matches(data)), None)
    if decoder is None:
        raise InvalidImage(
            f"The bytes are no image in a known format; send {', '.join(name.upper() for name in DECODERS)}."
        )
    try:
        with Image.open(io.BytesIO(data), formats=(decoder.pillow_format,)) as image:
            if image.width * image.height > max_pixels:
                raise ImageTooLarge(
                    f"The image has {image.width} × {image.height} pixels; send one of at most {max_pixels:,}."
                )
            return _to_rgb(image)
    except (InvalidImage, MemoryError):
        raise
    except Image.DecompressionBombError as exc:
        raise ImageTooLarge(f"The image is too large; send one of at most {max_pixels:,} pixels.") from exc
    except Exception as exc:  # Pillow's plugins raise nearly anything on damaged files
        raise InvalidImage(
            f"The bytes begin like {decoder.media_type} but can't be decoded; the file is damaged or cut off."
        ) from exc


def _to_rgb(image: Image.Image) -> RGBImage:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return np.asarray(image.convert("RGB"))


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Grayscale of 16 or more bits → 8 bits, by its own depth: Pillow would clip instead of scaling."""
    if image.mode == "F":
        raise InvalidImage("Floating-point pixels have no agreed range; send an image with integer pixels.")
    values = np.asarray(image).astype(np.int64)
    return Image.fromarray((values.clip(0, 65535) // 257).astype(np.uint8))


DECODERS: dict[str, Decoder] = {
    "jpeg": Decoder("image/jpeg", lambda data: data.startswith(b"\xff\xd8\xff"), "JPEG"),
    "png": Decoder("image/png", lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), "PNG"),
    "webp": Decoder("image/webp", lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", "WEBP"),
    "bmp": Decoder("image/bmp", lambda data: data.startswith(b"BM"), "BMP"),
    "gif": Decoder("image/gif", lambda data: data[:6] in (b"GIF87a", b"GIF89a"), "GIF"),
    "tiff": Decoder("image/tiff", lambda data: data[:4] in (b"II*\x00", b"MM\x00*"), "TIFF"),
}
