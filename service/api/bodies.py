"""The documented shapes of JSON bodies. OpenAPI is made from them; on the hot path answers are built without them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from service.metadata import ModelMetadata


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(examples=["/problems/invalid-image"])
    title: str
    status: int
    detail: str = Field(description="What to do about it.")
    instance: str | None = Field(description="The request's id.")


class ModelReference(BaseModel):
    """Which weights answered."""

    name: str = Field(examples=["cifar10"])
    version: str = Field(examples=["1"])
    digest: str = Field(description="Of the ONNX file.", examples=["sha256:…"])


class ImageError(BaseModel):
    """Why one image of several has no prediction."""

    type: str
    title: str
    detail: str


class ImagePrediction(BaseModel):
    """One image's answer: label and probabilities, or an error."""

    index: int
    filename: str | None
    label: str | None = None
    probability: Annotated[float | None, Field(ge=0, le=1)] = None
    probabilities: dict[str, float] | None = Field(
        None, description="Every class in the model's order, or the `top_k` most probable in falling order."
    )
    error: ImageError | None = None


class PredictResponse(BaseModel):
    """All images, in the order of the request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": {"name": "cifar10", "version": "1", "digest": "sha256:…"},
                    "predictions": [
                        {
                            "index": 0,
                            "filename": "cat.jpg",
                            "label": "cat",
                            "probability": 0.97,
                            "probabilities": {"cat": 0.97, "dog": 0.02},
                        },
                        {
                            "index": 1,
                            "filename": "notes.txt",
                            "error": {"type": "invalid-image", "title": "Not an image", "detail": "…"},
                        },
                    ],
                }
            ]
        }
    )
    model: ModelReference
    predictions: list[ImagePrediction]


class ImagesRequest(BaseModel):
    """Images as base64 text."""

    images: list[str] = Field(description="base64, or a `data:` URL.")


class VersionSummary(BaseModel):
    """One version of a model and whether it serves."""

    version: str
    state: str = Field(description="`ready`, or `failed` with the reason in `detail`.")
    active: bool
    digest: str | None = None
    provider: str | None = Field(None, description="The execution provider that the session uses.")
    precision: str | None = None
    detail: str | None = None


class ModelSummary(BaseModel):
    """A model and its versions."""

    name: str
    default: bool
    active_version: str | None
    versions: list[VersionSummary]


class ModelList(BaseModel):
    """Every model in the repository."""

    models: list[ModelSummary]


class VersionDetail(VersionSummary):
    """A loaded version with everything its metadata says."""

    metadata: ModelMetadata
    card: str = Field(description="The model card, Markdown.")


class Status(BaseModel):
    """A probe's answer."""

    status: str
    detail: str | None = None


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
