"""Images → whole HTTP requests, built once and sent again and again."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from service.types import RGBImage

IMAGE_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
MOST_FILES = 1000
MOST_BYTES = 1 << 30  # of one request's pixels
EncodedImage = tuple[str, bytes]  # its media type, its bytes


class Head(NamedTuple):
    """What every request says before its body."""

    host: str
    deadline_ms: int | None = None
    key: str | None = None


def read_images(path: Path) -> list[EncodedImage]:
    """(media type, bytes) of an image, or of up to MOST_FILES in a folder; raises `ValueError` when there is none."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    chosen = [file for file in files if file.suffix.lower() in IMAGE_TYPES and file.is_file()][:MOST_FILES]
    if not chosen:
        raise ValueError(f"{path} is not, and does not hold, an image in a format of {', '.join(IMAGE_TYPES)}.")
    try:
        return [(IMAGE_TYPES[file.suffix.lower()], file.read_bytes()) for file in chosen]
    except OSError as exc:
        raise ValueError(f"{exc.filename} can't be read: {exc.strerror}.") from exc


def resized(images: Sequence[EncodedImage], size: int) -> list[EncodedImage]:
    """The images as JPEGs of `size` × `size` pixels; raises `ValueError` where one is damaged."""
    return [("image/jpeg", _jpeg(_pixels(content, size))) for _, content in images]


def single(images: Sequence[EncodedImage], head: Head) -> list[bytes]:
    """One image per request, as it is."""
    return [post(content, media_type, head) for media_type, content in images]


def bulk(images: Sequence[EncodedImage], count: int, head: Head, *, size: int) -> list[bytes]:
    """`count` images per request, as one array uint8 (count, size, size, 3), answered with an array.

    Raises `ValueError` where one is damaged, or all together are too large.
    """
    if (nbytes := count * size * size * 3) > MOST_BYTES:
        raise ValueError(f"A request would have {nbytes:,} bytes; choose a smaller --bulk or --size.")
    rows = [_pixels(content, size) for _, content in images[:count]]
    stream = io.BytesIO()
    np.save(stream, np.stack([rows[i % len(rows)] for i in range(count)]))
    return [post(stream.getvalue(), "application/x-npy", head, accept="application/x-npy")]


def post(body: bytes, media_type: str, head: Head, *, accept: str = "*/*") -> bytes:
    """A whole HTTP/1.1 request."""
    lines = [
        "POST /v1/predict HTTP/1.1",
        f"Host: {head.host}",
        f"Content-Type: {media_type}",
        f"Accept: {accept}",
        f"Content-Length: {len(body)}",
        *([f"X-Request-Timeout-Ms: {head.deadline_ms}"] if head.deadline_ms else []),
        *([f"Authorization: Bearer {head.key}"] if head.key else []),
    ]
    return "".join(line + "\r\n" for line in [*lines, ""]).encode("ascii") + body


def _pixels(content: bytes, size: int) -> RGBImage:
    try:
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB").resize((size, size)))
    except Exception as exc:  # Pillow raises nearly anything on damaged files
        raise ValueError("An image to be resized can't be decoded; choose others with --image.") from exc


def _jpeg(pixels: RGBImage) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()
