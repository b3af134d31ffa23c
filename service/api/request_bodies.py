"""What requests with images may hold, for OpenAPI: FastAPI can't know, since they are read past it."""

from __future__ import annotations

from typing import Any

from service.api.bodies import ImagesRequest

PREDICT_BODIES: dict[str, Any] = {
    "required": True,
    "content": {
        **{
            media_type: {"schema": {"type": "string", "format": "binary"}}
            for media_type in (
                *(f"image/{kind}" for kind in ("jpeg", "png", "webp", "bmp", "gif", "tiff")),
                "application/octet-stream",
            )
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        "application/json": {
            "schema": ImagesRequest.model_json_schema(),
            "examples": {
                "one": {
                    "summary": "One white pixel",
                    "value": {"images": ["R0lGODdhAQABAIABAP///wAAACwAAAAAAQABAAACAkQBADs="]},
                }
            },
        },
        "application/x-npy": {
            "schema": {
                "type": "string",
                "format": "binary",
                "description": "A .npy file: uint8 (N, H, W, 3) or (H, W, 3), RGB.",
            }
        },
    },
}

_FILE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
BATCH_BODIES: dict[str, Any] = {
    "required": True,
    "content": {
        "application/zip": _FILE,
        "application/x-tar": _FILE,
        "application/gzip": _FILE,
        "application/zstd": _FILE,
        "application/vnd.apache.parquet": _FILE,
        "application/x-ndjson": {
            "schema": {"type": "string", "description": "One object per line; `id` may be absent."},
            "examples": {
                "one": {
                    "summary": "One white pixel",
                    "value": '{"id": "white", "image": "R0lGODdhAQABAIABAP///wAAACwAAAAAAQABAAACAkQBADs="}',
                }
            },
        },
        "application/jsonl": _FILE,
        "multipart/form-data": PREDICT_BODIES["content"]["multipart/form-data"],
    },
}
