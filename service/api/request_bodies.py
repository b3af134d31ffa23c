"""What requests with images may hold, for OpenAPI: FastAPI can't know, since they are read past it."""

from __future__ import annotations

from typing import Any

from service.api.batch_uploads import MEDIA_TYPES
from service.api.bodies import ImagesRequest
from service.api.uploads import RAW_IMAGE

ONE_PIXEL = "R0lGODdhAQABAIABAP///wAAACwAAAAAAQABAAACAkQBADs="
FILE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
FORM: dict[str, Any] = {
    "schema": {"type": "object", "properties": {"images": {"type": "array", "items": FILE["schema"]}}}
}


def _example(value: object) -> dict[str, Any]:
    return {"one": {"summary": "One white pixel", "value": value}}


PREDICT_BODIES: dict[str, Any] = {
    "required": True,
    "content": {
        **dict.fromkeys(sorted(RAW_IMAGE - {"image/jpg"}), FILE),  # which is accepted, but no registered type
        "multipart/form-data": FORM,
        "application/json": {
            "schema": ImagesRequest.model_json_schema(),
            "examples": _example({"images": [ONE_PIXEL]}),
        },
        "application/x-npy": {
            "schema": FILE["schema"] | {"description": "A .npy file: uint8 (N, H, W, 3) or (H, W, 3), RGB."}
        },
    },
}
BATCH_BODIES: dict[str, Any] = {
    "required": True,
    "content": {
        **dict.fromkeys(MEDIA_TYPES, FILE),
        "application/x-ndjson": {
            "schema": {"type": "string", "description": "One object per line; `id` may be absent."},
            "examples": _example(f'{{"id": "white", "image": "{ONE_PIXEL}"}}'),
        },
        "multipart/form-data": FORM,
    },
}
