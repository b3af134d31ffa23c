"""The documented shapes of JSON bodies. OpenAPI is made from them; on the hot path answers are built without them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.api import examples
from service.metadata import ModelMetadata, StageKind


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
    prediction_set: list[str] | None = Field(
        None, description="With `coverage`: the classes that may be the true one, in falling probability; never none."
    )
    error: ImageError | None = None


class Coverage(BaseModel):
    """How often prediction sets are to hold the true class, and how often they did, on images kept from calibration.

    Split-conformal (V. Vovk et al., 2005; M. Sadinle et al., 2019): the promise is for images like those of the
    training set, on average over them. What was never measured is absent or null.
    """

    asked: Annotated[float, Field(ge=0, le=1)]
    measured: Annotated[float | None, Field(ge=0, le=1)] = None
    mean_size: float | None = Field(None, description="Classes in a set, on average.")
    split: str | None = Field(
        None, description="`test`, or `validation`: each half of it by a threshold from the other half."
    )
    images: int | None = None


class PredictResponse(BaseModel):
    """All images, in the order of the request."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.PREDICT]})

    model: ModelReference
    coverage: Coverage | None = Field(None, description="Where `coverage` was asked for.")
    predictions: list[ImagePrediction]


class OcclusionMap(BaseModel):
    """Which parts of a picture its prediction rests on: each is hidden by a grey square, and what that costs is told.

    M. Zeiler and R. Fergus, "Visualizing and understanding convolutional networks", 2014.
    """

    grid: list[list[float]] = Field(
        description="How far the log-odds of the predicted class fall, in nats, with that part hidden; row by row from "
        "the top left, the squares overlap. Below zero where the network is surer without that part."
    )
    probabilities: list[list[float]] = Field(description="The probability that the predicted class has left then.")
    image: str = Field(
        description="`data:image/png`: what the network sees of the picture, redder where more is lost.",
        examples=["data:image/png;base64,…"],
    )


class StageImage(BaseModel):
    """What one stage of the network makes of the picture."""

    name: str = Field(examples=["conv1"])
    kind: StageKind
    shape: list[int] = Field(description="Channels, height, width.", examples=[[32, 30, 30]])
    image: str = Field(
        description="`data:image/png`: the channels side by side, a pixel per value, on one scale; orange is positive, "
        "blue negative, black zero.",
        examples=["data:image/png;base64,…"],
    )


class ExplainResponse(BaseModel):
    """One picture's prediction, and what can be seen of how it comes about."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.EXPLAIN]})

    model: ModelReference
    prediction: ImagePrediction
    occlusion: OcclusionMap
    stages: list[StageImage] = Field(
        description="Convolutions, activations and poolings in the order in which they run, computed in fp32; none "
        "where the version was exported without them."
    )


class ImagesRequest(BaseModel):
    """Images as base64 text."""

    images: list[str] = Field(description="base64, or a `data:` URL.")


class VersionSummary(BaseModel):
    """One version of a model and whether it serves."""

    version: str
    state: str = Field(description="`ready`, `unloaded`, or `failed` with the reason in `detail`.")
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

    model_config = ConfigDict(json_schema_extra={"examples": [examples.MODELS]})

    models: list[ModelSummary]


class VersionDetail(VersionSummary):
    """A loaded version with everything its metadata says."""

    metadata: ModelMetadata
    card: str = Field(description="The model card, Markdown.")


class BatchCounts(BaseModel):
    """How many images a batch has, and how many of them have their rows."""

    total: int | None = Field(description="Null until the upload has been read.")
    done: int
    failed: int = Field(description="Those of the done ones whose row is an error.")


class BatchStatus(BaseModel):
    """A batch and how far it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.BATCH]})

    id: str
    status: str = Field(description="`queued`, `running`, `succeeded`, `failed`, or `cancelled` in a last event.")
    model: ModelReference
    counts: BatchCounts
    progress: Annotated[float, Field(ge=0, le=1)]
    eta_seconds: float | None
    created_at: str = Field(examples=["2026-01-01T12:00:00.000+00:00"])
    started_at: str | None
    finished_at: str | None
    error: ImageError | None = Field(description="Why the batch as a whole failed.")
    coverage: Coverage | None = Field(None, description="Where `coverage` was asked for.")


class ResultRow(BaseModel):
    """One image of a batch: label and probabilities, or an error."""

    model_config = ConfigDict(json_schema_extra={"examples": [*examples.ROWS]})

    index: int
    id: str | None = Field(description="The member's path in the archive, the row's id, or the file's name.")
    label: str | None = None
    probability: Annotated[float | None, Field(ge=0, le=1)] = None
    probabilities: dict[str, float] | None = None
    prediction_set: list[str] | None = Field(
        None, description="With `coverage`: the classes that may be the true one, in falling probability; never none."
    )
    error: ImageError | None = None


class BatchList(BaseModel):
    """One page of batches."""

    batches: list[BatchStatus]
    after: str | None = Field(description="What to ask for the next page with; null on the last one.")


class Status(BaseModel):
    """A probe's answer; ready is what runs the default model, where and in which numbers."""

    status: str
    detail: str | None = None
    provider: str | None = None
    precision: str | None = None
