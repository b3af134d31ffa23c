"""A request's body → pictures, whatever its kind; count and size are limited while it is being read.

Bytes that turn out to be no image are not judged here: that is decoding's room.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from email.message import Message
from typing import Any

import orjson
from starlette.requests import Request

from service.api import multipart, npy
from service.classifier import Picture
from service.errors import (
    BodyTooLarge,
    EmptyRequest,
    ImageTooLarge,
    InvalidImage,
    MalformedRequest,
    TooManyImages,
    UnsupportedMediaType,
)
from service.settings import Settings

RAW_IMAGE = {
    *(f"image/{kind}" for kind in ("jpeg", "jpg", "png", "webp", "bmp", "gif", "tiff")),
    "application/octet-stream",
}


@dataclass(frozen=True, slots=True)
class Upload:
    """One picture, or why there is none at its place."""

    picture: Picture | InvalidImage
    filename: str | None = None


async def read_uploads(request: Request, settings: Settings) -> list[Upload]:
    """The pictures of a request, in order, at least one.

    Raises `UnsupportedMediaType`, `BodyTooLarge`, `TooManyImages`, `EmptyRequest`, `MalformedRequest` or `WrongShape`.
    """
    media_type, parameters = _content_type(request)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Compressed bodies are not accepted; send the body without Content-Encoding.")
    if media_type in RAW_IMAGE:
        uploads = await _raw(request, settings)
    elif media_type in READERS:
        uploads = await READERS[media_type](request, settings, parameters)
    else:
        raise UnsupportedMediaType(
            f"Send the image itself as {', '.join(sorted(RAW_IMAGE))}, or several as {', '.join(READERS)}."
        )
    if not uploads:
        raise EmptyRequest("The request holds no image; send at least one.")
    return uploads


async def _raw(request: Request, settings: Settings) -> list[Upload]:
    data = await _whole_body(request, limit=min(settings.max_body_bytes, settings.max_image_bytes))
    return [Upload(data)] if data else []


async def _multipart(request: Request, settings: Settings, parameters: dict[str, str]) -> list[Upload]:
    boundary = parameters.get("boundary", "")
    files = await multipart.read_files(
        _limited(request, settings.max_body_bytes),
        boundary.encode("latin-1", "replace"),
        max_files=settings.max_images_per_request,
        max_file_bytes=settings.max_image_bytes,
    )
    return [Upload(file.content, file.filename) for file in files]


async def _json(request: Request, settings: Settings, _parameters: dict[str, str]) -> list[Upload]:
    try:
        document: Any = orjson.loads(await _whole_body(request, settings.max_body_bytes))
    except orjson.JSONDecodeError as exc:
        raise MalformedRequest(f"The body is not JSON (line {exc.lineno}, column {exc.colno}).") from exc
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise MalformedRequest('The JSON body must be {"images": ["<base64>", …]}.')
    _check_count(len(images), settings)
    return [Upload(_from_base64(image, settings)) for image in images]


def _from_base64(text: str, settings: Settings) -> Picture | InvalidImage:
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            return InvalidImage("The data URL is not base64; send data:image/png;base64,… or base64 alone.")
    if len(text) * 3 // 4 > settings.max_image_bytes + 2:
        raise BodyTooLarge(f"An image may have {settings.max_image_bytes:,} bytes at most; send a smaller one.")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return InvalidImage("The text is not base64; encode the image file's bytes.")


async def _npy(request: Request, settings: Settings, _parameters: dict[str, str]) -> list[Upload]:
    images = npy.read_images(await _whole_body(request, settings.max_body_bytes))
    _check_count(len(images), settings)
    if images.shape[1] * images.shape[2] > settings.max_image_pixels:
        raise ImageTooLarge(f"An image may have {settings.max_image_pixels:,} pixels at most; send smaller ones.")
    return [Upload(image) for image in images]


Reader = Callable[[Request, Settings, dict[str, str]], Awaitable[list[Upload]]]
READERS: dict[str, Reader] = {
    "multipart/form-data": _multipart,
    "application/json": _json,
    npy.MEDIA_TYPE: _npy,
}


def _content_type(request: Request) -> tuple[str, dict[str, str]]:
    message = Message()  # the standard library's parser of this header
    message["content-type"] = request.headers.get("content-type", "")
    parameters = {str(key): str(value) for key, value in message.get_params(failobj=[])[1:]}
    return (message.get_content_type() if message["content-type"] else ""), parameters


def _check_count(count: int, settings: Settings) -> None:
    if count > settings.max_images_per_request:
        raise TooManyImages(f"A request may hold {settings.max_images_per_request:,} images at most; split it.")


async def _whole_body(request: Request, limit: int) -> bytes:
    chunks = [chunk async for chunk in _limited(request, limit)]
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _limited(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body as it arrives; raises `BodyTooLarge` as soon as it is known to be more than `limit` bytes."""
    too_large = BodyTooLarge(f"The body may have {limit:,} bytes at most; send less at a time.")
    declared = request.headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and int(declared) > limit:
        raise too_large
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise too_large
        if chunk:
            yield chunk
