"""The protocol's JSON objects, as far as they are used here; what else a client sends is ignored, as it asks."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, model_validator
from pydantic.json_schema import models_json_schema

from service.api import wording
from service.errors import MalformedRequest
from service.metadata import INPUT, OUTPUT

Parameters = dict[str, Any]
Size = Annotated[int, Field(ge=0, strict=True)]
MOST_SIZES = 8  # of a shape; without an end, pydantic makes an error of each one that is bad, and there may be millions


class Sent(BaseModel):
    """What a client sends; some write null for what they leave out."""

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, fields: object) -> object:
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value is not None}


class Request(Sent):
    """The whole of it, whichever way it comes."""

    @classmethod
    def parse(cls, content: bytes | memoryview) -> Self:
        """What JSON says; raises `MalformedRequest`."""
        try:
            return cls.of(orjson.loads(content))
        except orjson.JSONDecodeError as exc:
            raise MalformedRequest(f"The request is not JSON (line {exc.lineno}, column {exc.colno}).") from exc

    @classmethod
    def of(cls, document: object) -> Self:
        """What parsed JSON says; raises `MalformedRequest`."""
        try:
            return cls.model_validate(document)
        except ValidationError as exc:
            raise MalformedRequest(wording.sentence(exc.errors(include_url=False, include_input=False))) from exc


def schemas(ref_template: str) -> dict[str, Any]:
    """The JSON schemas of all that clients send, and of what they get instead of an answer, by name."""
    kinds = (InferRequest, IndexRequest, LoadRequest, UnloadRequest, Failure)
    _, made = models_json_schema([(kind, "validation") for kind in kinds], ref_template=ref_template)
    named: dict[str, Any] = made["$defs"]
    return named


class Failure(BaseModel):
    """Any error."""

    error: str = Field(description="What to do about it.")


class Tensor(Sent):
    """A tensor and how it is sent."""

    name: str = Field(examples=[INPUT])
    shape: list[Size] = Field(max_length=MOST_SIZES, examples=[[1, 32, 32, 3]])
    datatype: str = Field(examples=["UINT8"])
    parameters: Parameters = Field({}, description="`binary_data_size`: its bytes follow the JSON object.")


class InputTensor(Tensor):
    """Images: `UINT8` pixels (N, H, W, 3), RGB, or `BYTES` (N): encoded ones, in JSON as base64."""

    data: Any = Field(None, description="Row-major, nested or flat. Absent where binary data follows.")


class RequestedOutput(Sent):
    """What is asked of the only output."""

    name: Literal["probabilities"]
    parameters: Parameters = Field(
        {}, description="`binary_data`: after the JSON object; `classification`: only so many of the most probable."
    )


class InferRequest(Request):
    """A request, without the bytes that may follow it."""

    id: str | None = Field(None, description="Comes back with the answer.")
    parameters: Parameters = Field(
        {},
        description="`timeout` in microseconds; `priority`: above 1 gives way to the others; `binary_data_output`.",
    )
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] = Field([], max_length=1)


class OutputTensor(Tensor):
    """`FP32` (N, classes), or with `classification` `BYTES` (N, k): "probability:index:label"."""

    name: str = Field(examples=[OUTPUT])
    data: list[Any] = Field([], description="Row-major, flat.")


class InferResponse(BaseModel):
    """The answer, without the bytes that may follow it."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class Server(BaseModel):
    """What answers, and what of the protocol's extensions it knows."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """The process answers."""

    live: bool


class Ready(BaseModel):
    """Whether requests would be answered."""

    name: str | None = Field(None, description="The model, where one was asked about.")
    ready: bool


class TensorMetadata(BaseModel):
    """A tensor's name, type and shape; -1 stands for any number."""

    name: str
    datatype: str
    shape: list[int]


class Model(BaseModel):
    """A model's versions and tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class TensorConfig(BaseModel):
    """A tensor without its first dimension."""

    name: str
    data_type: str
    dims: list[int]


class Config(BaseModel):
    """Triton's view of a model: what its load generator asks for."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]


class IndexRequest(Request):
    """Which versions to list."""

    ready: StrictBool = Field(False, description="Only those that answer.")


class LoadRequest(Request):
    """Nothing can be said of how: what a model is, its files say."""

    model_config = ConfigDict(extra="forbid")

    parameters: dict[str, str] = Field({}, max_length=0, description="Must be empty.")


class UnloadParameters(BaseModel):
    """What Triton's clients send."""

    model_config = ConfigDict(extra="forbid")

    unload_dependents: StrictBool = Field(False, description="No model depends on another; it changes nothing.")


class UnloadRequest(Request):
    """What to unload besides."""

    model_config = ConfigDict(extra="forbid")

    parameters: UnloadParameters = UnloadParameters()


class IndexEntry(BaseModel):
    """A version in the model repository."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str = Field("", description="Why it is unavailable.")


class Count(BaseModel):
    """How many images."""

    count: int


class Outcomes(BaseModel):
    """What became of images."""

    success: Count
    fail: Count


class VersionStatistics(BaseModel):
    """Counts of a version, over all processes of this server."""

    name: str
    version: str
    inference_count: int = Field(description="Images that were answered.")
    inference_stats: Outcomes


class Statistics(BaseModel):
    """Of each version."""

    model_config = ConfigDict(protected_namespaces=())

    model_stats: list[VersionStatistics]
