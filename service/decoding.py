"""Encoded bytes → RGB array. The bytes decide what they are, never the declared type.

The size is read from the header and checked before any pixel is decoded. Whatever is wrong with an image raises
`InvalidImage` or its kin `ImageTooLarge`; beside `MemoryError`, nothing else leaves this room.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from service.errors import ImageTooLarge, InvalidImage
from service.pixels import Grey, scale_transparency, to_rgb
from service.types import RGBImage

Image.MAX_IMAGE_PIXELS = None  # the limit is the operator's, see `_check_size`
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # remarks on odd files, in no log's format
MOST_SCANS = 100  # of a JPEG: each goes through all pixels again, and programs write a dozen or less
MOST_SCANNED, MOST_PASSES = 640_000_000, 16  # pixels of all scans together, or times the largest image where more
COMPRESSION_OF_BMP, PACKED_RUNS, MOST_RUN_PIXELS = slice(30, 34), (1, 2), 1 << 20  # RLE8 and RLE4 (BITMAPINFOHEADER)
MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")  # begins a segment (ITU-T T.81, B.1.1.3); the rest is pixels
SCAN, END = b"\xda", b"\xd9"
TILE_WIDTH, TILE_LENGTH, BITS_PER_SAMPLE, PHOTOMETRIC = 322, 323, 258, 262  # TIFF tags
COMPRESSION, FILL_ORDER, PLANAR_CONFIGURATION = 259, 266, 284
WHITE_IS_ZERO, UNCOMPRESSED, REVERSED, PLANES = 0, 1, 2, 2  # values of these (TIFF 6.0, section 8)
ORIENTATION = 0x0112  # EXIF tag
TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")  # the last two are BigTIFF
EXIF, XMP = b"Exif\x00\x00", b"http://ns.adobe.com/xap/"  # either may tell which way is up
UPRIGHT: dict[int, Callable[[RGBImage], RGBImage]] = {  # EXIF 2.32, 4.6.4 A: which corner the first row begins at
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@dataclass(frozen=True, slots=True)
class Decoder:
    """A format: how its first bytes look, the name Pillow has for it, and how it is decoded."""

    media_type: str
    matches: Callable[[bytes], bool]
    pillow_format: str
    decode: Callable[[bytes, str, int, int], RGBImage]  # data, Pillow's format, max_pixels, at_least


def decode(data: bytes, *, max_pixels: int, at_least: int | None = None) -> RGBImage:
    """The (first) image in `data` as uint8 (H, W, 3), upright, on white where it is transparent.

    With `at_least`, a much larger image may come back reduced, but no side becomes shorter than that many pixels.
    """
    for decoder in DECODERS.values():
        if decoder.matches(data):
            break
    else:
        raise InvalidImage(
            f"The bytes are no image in a known format; send {', '.join(name.upper() for name in DECODERS)}."
        )
    try:
        return decoder.decode(data, decoder.pillow_format, max_pixels, at_least or max_pixels)  # so many: never reduced
    except (InvalidImage, MemoryError):
        raise
    except Exception as exc:  # Pillow's plugins raise nearly anything on damaged files
        raise InvalidImage(
            f"The bytes begin like {decoder.media_type} but can't be decoded; the file is damaged or cut off, "
            "or of a rare kind; save it anew, as PNG for instance."
        ) from exc


def _jpeg(data: bytes, pillow_format: str, max_pixels: int, at_least: int) -> RGBImage:
    """libjpeg-turbo without Pillow around it: the same pixels for a seventh of the time, and photos reduced while the
    frequencies are unpacked. What it has no answer for, Pillow judges."""
    _check_scans(data, MOST_SCANS)
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height, max_pixels)
        _check_scans(data, max(MOST_SCANNED, MOST_PASSES * max_pixels) // (width * height))
        if colours not in ("YCbCr", "Gray", "RGB"):
            return _pillow(data, pillow_format, max_pixels, at_least)
        if min(width, height) < at_least:  # of a sliver, the length alone would be reduced
            at_least = max(width, height)
        image: RGBImage = simplejpeg.decode_jpeg(data, "RGB", min_height=at_least, min_width=at_least)
    except ValueError:
        return _pillow(data, pillow_format, max_pixels, at_least)
    if EXIF in data or XMP in data:
        with suppress(Exception), Image.open(io.BytesIO(data), formats=(pillow_format,)) as header:  # as in `to_rgb`
            image = UPRIGHT.get(header.getexif().get(ORIENTATION, 1), np.asarray)(image)
    return image


def _check_scans(data: bytes, most: int) -> None:
    """Raise `InvalidImage` where a JPEG has more than so many scans."""
    if data.count(b"\xff" + SCAN) <= most:
        return
    place, count = 2, 0  # those of notes and thumbnails count for nothing
    while count <= most and (found := MARKER.search(data, place)) and found[1] != END:
        count += found[1] == SCAN
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    if count > most:
        raise InvalidImage(f"The JPEG file has more than {most} scans, too many for its size; save it with fewer.")


def _bmp(data: bytes, pillow_format: str, max_pixels: int, at_least: int) -> RGBImage:
    """As Pillow decodes it, in Python where runs are packed: few bytes may be seconds of work then."""
    packed = int.from_bytes(data[COMPRESSION_OF_BMP], "little") in PACKED_RUNS
    if not packed or max_pixels <= MOST_RUN_PIXELS:
        return _pillow(data, pillow_format, max_pixels, at_least)
    try:
        return _pillow(data, pillow_format, MOST_RUN_PIXELS, at_least)
    except ImageTooLarge as exc:
        raise ImageTooLarge(
            f"A BMP file of packed runs may have {MOST_RUN_PIXELS:,} pixels at most; save it as PNG."
        ) from exc


def _pillow(data: bytes, pillow_format: str, max_pixels: int, _at_least: int) -> RGBImage:
    with Image.open(io.BytesIO(data), formats=(pillow_format,)) as image:
        _check_size(image.width, image.height, max_pixels)
        grey = Grey()
        if isinstance(image, TiffImageFile):  # its tiles are unpacked whole, however little of them the image has
            tags = image.tag_v2
            across, down = tags.get(TILE_WIDTH, image.width), tags.get(TILE_LENGTH, image.height)
            width, height = math.ceil(image.width / across) * across, math.ceil(image.height / down) * down
            _check_size(width, height, max_pixels, what="The image's tiles have")
            _check_planes(image.mode, tags)
            twelve = tags.get(BITS_PER_SAMPLE) == (12,)
            grey = Grey(4095 if twelve else 65535, inverted=tags.get(PHOTOMETRIC) == WHITE_IS_ZERO)
        if pillow_format == "PNG" and "transparency" in image.info:
            scale_transparency(image, data)
        return to_rgb(image, grey)


def _check_planes(mode: str, tags: ImageFileDirectory_v2) -> None:
    """Raise `InvalidImage` where each channel has a plane of its own, and Pillow would see other pixels in it.

    It takes whatever is in uncompressed planes for bytes, the highest the brightest, and has no place for grey's alpha.
    """
    if tags.get(PLANAR_CONFIGURATION) != PLANES:
        return
    plain = mode == "1" or set(tags.get(BITS_PER_SAMPLE, (1,))) == {8}
    turned = tags.get(PHOTOMETRIC, WHITE_IS_ZERO) == WHITE_IS_ZERO or tags.get(FILL_ORDER) == REVERSED
    if mode == "LA" or (tags.get(COMPRESSION, UNCOMPRESSED) == UNCOMPRESSED and (turned or not plain)):
        raise InvalidImage(
            "The TIFF file has its channels in planes of their own, of a kind that is not known here; "
            "save it with them interleaved, or as PNG."
        )


def _webp(data: bytes, pillow_format: str, max_pixels: int, at_least: int) -> RGBImage:
    """As Pillow decodes it, but for the size: Pillow has made room for all pixels before it can say how many."""
    if size := _webp_size(data):
        _check_size(*size, max_pixels)
    return _pillow(data, pillow_format, max_pixels, at_least)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height by the header (RFC 9649, 2.5 to 2.7); None where it has another form."""
    kind, content = data[12:16], data[20:30]
    if len(content) == 10:
        if kind == b"VP8X":
            return int.from_bytes(content[4:7], "little") + 1, int.from_bytes(content[7:10], "little") + 1
        if kind == b"VP8L":
            bits = int.from_bytes(content[1:5], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if kind == b"VP8 ":  # a frame header as in RFC 6386, 9.1, where the two bits above each side scale it
            return int.from_bytes(content[6:8], "little") & 0x3FFF, int.from_bytes(content[8:10], "little") & 0x3FFF
    return None


def _gif(data: bytes, pillow_format: str, max_pixels: int, at_least: int) -> RGBImage:
    """As Pillow decodes it, but white where the first frame leaves the screen free: Pillow sees its first colour."""
    image = _pillow(data, pillow_format, max_pixels, at_least)
    with Image.open(io.BytesIO(data), formats=(pillow_format,)) as header:
        left, top, right, bottom = header.tile[0].extents or (0, 0, *header.size)
    if (right - left, bottom - top) == (header.width, header.height):
        return image
    screen = np.full_like(image, 255)
    screen[top:bottom, left:right] = image[top:bottom, left:right]
    return screen


def _check_size(width: int, height: int, max_pixels: int, what: str = "The image has") -> None:
    if width * height > max_pixels:
        raise ImageTooLarge(f"{what} {width} × {height} pixels; send one of at most {max_pixels:,}.")


DECODERS: dict[str, Decoder] = {
    "jpeg": Decoder("image/jpeg", lambda data: data.startswith(b"\xff\xd8\xff"), "JPEG", _jpeg),
    "png": Decoder("image/png", lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), "PNG", _pillow),
    "webp": Decoder("image/webp", lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", "WEBP", _webp),
    "bmp": Decoder("image/bmp", lambda data: data.startswith(b"BM"), "BMP", _bmp),
    "gif": Decoder("image/gif", lambda data: data[:6] in (b"GIF87a", b"GIF89a"), "GIF", _gif),
    "tiff": Decoder("image/tiff", lambda data: data[:4] in TIFF, "TIFF", _pillow),
}
