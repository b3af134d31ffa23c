"""A request's body → pictures, whatever its kind; count and size are limited while it is being read.

Bytes that turn out to be no image are not judged here: that is decoding's room.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any

import orjson

from service.api import multipart, npy
from service.api.body_room import SMALL_BYTES
from service.api.incoming import Incoming
from service.decoding import DECODERS
from service.errors import (
    BodyTooLarge,
    EmptyRequest,
    ImageTooLarge,
    InvalidImage,
    MalformedRequest,
    TooManyImages,
    UnsupportedMediaType,
)
from service.preparation import Picture, Pictures
from service.settings import Settings

RAW_IMAGE = {*(decoder.media_type for decoder in DECODERS.values()), "image/jpg", "application/octet-stream"}
COMMAS = 64  # in a JSON body beside those of its images
INLINE_BYTES = SMALL_BYTES  # of JSON, or to be put in order: more is done in a thread, since nothing else is answered


@dataclass(slots=True)
class Uploads:
    """The pictures of a request, in order, and their files' names where they came as files."""

    pictures: Pictures
    filenames: Sequence[str | None] | None = None


def as_what(declared: str) -> str:
    """How a body came whose content type is not known here."""
    if declared.startswith("application/x-www-form-urlencoded"):  # as curl says of --data-binary if it isn't told
        return "as a web form's fields; with curl, name the type: -H 'Content-Type: …'"
    return f"as {declared[:80]}" if declared else "without a Content-Type"


async def read_uploads(request: Incoming, settings: Settings) -> Uploads:
    """The pictures of a request, at least one.

    Raises `UnsupportedMediaType`, `BodyTooLarge`, `TooManyImages`, `EmptyRequest`, `MalformedRequest` or `WrongShape`.
    """
    declared = request.content_type()
    check_encoding(request)
    media_type, parameters = (declared, {}) if declared in BARE else content_type(declared)
    if media_type in RAW_IMAGE:
        data = await request.whole(min(settings.max_body_bytes, settings.max_image_bytes))
        uploads = Uploads([data] if data else [])
    elif media_type in READERS:
        uploads = await READERS[media_type](request, settings, parameters)
    else:
        raise UnsupportedMediaType(
            f"The body came {as_what(declared)}. "
            f"Send the image itself as {', '.join(sorted(RAW_IMAGE))}, or several as {', '.join(READERS)}."
        )
    if not len(uploads.pictures):
        raise EmptyRequest("The request holds no image; send at least one.")
    return uploads


def check_encoding(request: Incoming) -> None:
    """Raise `UnsupportedMediaType` for a compressed body."""
    if request.headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMediaType("Compressed bodies are not accepted; send the body without Content-Encoding.")


def content_type(declared: str) -> tuple[str, dict[str, str]]:
    """A Content-Type → the media type, empty where none was declared, and its parameters.

    Raises `MalformedRequest` where nobody can make sense of the latter.
    """
    message = Message()  # the standard library's parser of this header
    message["content-type"] = declared
    try:
        parameters = {str(key): str(value) for key, value in message.get_params(failobj=[])[1:]}
    except (TypeError, ValueError) as exc:  # what RFC 2231 has made of parameters is more than the parser can take
        raise MalformedRequest("header Content-Type: its parameters can't be read; send plain ones.") from exc
    return (message.get_content_type() if declared else ""), parameters


async def _multipart(request: Incoming, settings: Settings, parameters: dict[str, str]) -> Uploads:
    boundary = parameters.get("boundary", "")
    files = await multipart.read_files(
        request.kept(settings.max_body_bytes),
        boundary.encode("latin-1", "replace"),
        max_files=settings.max_images_per_request,
        max_file_bytes=settings.max_image_bytes,
    )
    return Uploads([file.content for file in files], [file.filename for file in files])


async def _json(request: Incoming, settings: Settings, _parameters: dict[str, str]) -> Uploads:
    body = await request.whole(settings.max_body_bytes)
    is_quick = len(body) <= INLINE_BYTES
    return _from_json(body, settings) if is_quick else await request.parsed(_from_json, body, settings)


def _from_json(body: bytes, settings: Settings) -> Uploads:
    if body.count(b",") > 2 * settings.max_images_per_request + COMMAS:  # one after each image, one in a data URL
        check_count(settings.max_images_per_request + 1, settings)  # millions of values hold up everybody: unparsed
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise MalformedRequest(f"The body is not JSON (line {exc.lineno}, column {exc.colno}).") from exc
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise MalformedRequest('The JSON body must be {"images": ["<base64>", …]}.')
    check_count(len(images), settings)
    return Uploads([from_base64(image, settings) for image in images])


def from_base64(encoded: str, settings: Settings) -> Picture | InvalidImage:
    """The bytes of an image file, or what is wrong with the text; raises `BodyTooLarge`."""
    if encoded.startswith("data:"):
        head, comma, encoded = encoded.partition(",")
        if not comma or not head.endswith(";base64"):
            return InvalidImage("The data URL is not base64; send data:image/png;base64,… or base64 alone.")
    if len(encoded) * 3 // 4 > settings.max_image_bytes + 2:
        raise BodyTooLarge(f"An image may have {settings.max_image_bytes:,} bytes at most; send a smaller one.")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return InvalidImage("The text is not base64; encode the image file's bytes.")


async def _npy(request: Incoming, settings: Settings, _parameters: dict[str, str]) -> Uploads:
    images = npy.read_images(await request.whole(settings.max_body_bytes))
    check_count(len(images), settings)
    check_pixels(images.shape[1] * images.shape[2], settings)
    is_quick = images.flags.c_contiguous or images.nbytes <= INLINE_BYTES
    return Uploads(npy.in_order(images) if is_quick else await request.parsed(npy.in_order, images))


Reader = Callable[[Incoming, Settings, dict[str, str]], Awaitable[Uploads]]
READERS: dict[str, Reader] = {
    "multipart/form-data": _multipart,
    "application/json": _json,
    npy.MEDIA_TYPE: _npy,
}


BARE = RAW_IMAGE | {npy.MEDIA_TYPE}  # nothing to parse about them


def check_count(count: int, settings: Settings) -> None:
    """Raise `TooManyImages` for more images than a request may hold."""
    if count > settings.max_images_per_request:
        raise TooManyImages(f"A request may hold {settings.max_images_per_request:,} images at most; split it.")


def check_pixels(pixels: int, settings: Settings) -> None:
    """Raise `ImageTooLarge` for images of more pixels than one may have."""
    if pixels > settings.max_image_pixels:
        raise ImageTooLarge(f"An image may have {settings.max_image_pixels:,} pixels at most; send smaller ones.")
