"""Images → whole HTTP requests, built once and sent again and again."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

IMAGE_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
MOST_FILES = 1000


def read_images(path: Path) -> list[tuple[str, bytes]]:
    """(media type, bytes) of an image, or of up to MOST_FILES in a folder; raises `ValueError` when there is none."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    chosen = [file for file in files if file.suffix.lower() in IMAGE_TYPES and file.is_file()][:MOST_FILES]
    if not chosen:
        raise ValueError(f"{path} is not, and does not hold, an image in a format of {', '.join(IMAGE_TYPES)}.")
    return [(IMAGE_TYPES[file.suffix.lower()], file.read_bytes()) for file in chosen]


def single(images: Sequence[tuple[str, bytes]], *, host: str, path: str) -> list[bytes]:
    """One image per request, as it is."""
    return [post(content, media_type, host=host, path=path) for media_type, content in images]


def bulk(images: Sequence[tuple[str, bytes]], count: int, *, host: str, path: str, size: int) -> list[bytes]:
    """`count` images per request, as one array uint8 (count, size, size, 3), answered with an array."""
    rows = [
        np.asarray(Image.open(io.BytesIO(content)).convert("RGB").resize((size, size))) for _, content in images[:count]
    ]
    stream = io.BytesIO()
    np.save(stream, np.stack([rows[i % len(rows)] for i in range(count)]))
    return [post(stream.getvalue(), "application/x-npy", host=host, path=path, accept="application/x-npy")]


def post(body: bytes, media_type: str, *, host: str, path: str, accept: str = "*/*") -> bytes:
    """A whole HTTP/1.1 request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {media_type}\r\nAccept: {accept}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body
