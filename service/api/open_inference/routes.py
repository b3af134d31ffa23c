"""/v2: translates in, one call to the core, translates out. Errors are `{"error": "<what to do>"}` here.

`problems` sees to that, for everything below the prefix.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from importlib.metadata import version as version_of
from typing import Any

from fastapi import APIRouter, Response

from service import errors
from service.api import problems
from service.api.direct import DirectRoutes
from service.api.incoming import Incoming, Reply, text
from service.api.open_inference import bodies, tensors
from service.api.open_inference.bodies import IMAGE, PROBABILITIES
from service.api.uploads import INLINE_BYTES, check_encoding
from service.classifier import Classifier
from service.errors import DeviceLost, Draining, EmptyRequest, NotReady
from service.metrics import Metrics
from service.prediction import Prediction
from service.queueing import Priority
from service.repository import LoadedModel
from service.serving import ServedModels
from service.settings import Settings

PREFIX = problems.OPEN_INFERENCE
METHOD, PATHS = "POST", (f"{PREFIX}/models/{{model}}/infer", f"{PREFIX}/models/{{model}}/versions/{{version}}/infer")
PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"  # Triton's names for what runs here
EXTENSIONS = [
    "binary_tensor_data", "classification", "model_configuration", "model_repository", "schedule_policy", "statistics",
]  # fmt: skip
HEADER_LENGTH = b"inference-header-content-length"
REFERENCE = "#/components/schemas/{model}"
INFER_REQUEST = bodies.InferRequest.model_json_schema(ref_template=REFERENCE)
SCHEMAS: dict[str, Any] = INFER_REQUEST.pop("$defs") | {"InferRequest": INFER_REQUEST}  # FastAPI does not find these
REQUEST_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": REFERENCE.format(model="InferRequest")},
            "example": {"inputs": [{"name": IMAGE, "shape": [1], "datatype": "BYTES", "data": ["<base64>"]}]},
        },
        "application/octet-stream": {
            "schema": {"type": "string", "format": "binary", "description": "The JSON object, then binary tensors."}
        },
    },
}

Responses = dict[int | str, dict[str, Any]]
FAILURE: dict[str, Any] = {"model": bodies.Failure}
NOT_READY: Responses = {NotReady.status.value: {"model": bodies.Ready}}
NOT_FOUND: Responses = {errors.ModelNotFound.status.value: FAILURE}
INFER: dict[str, Any] = {
    "response_model": bodies.InferResponse,
    "responses": {
        error.status.value: FAILURE
        for error in (
            errors.MalformedRequest, errors.ModelNotFound, errors.BodyTooLarge, errors.UnsupportedMediaType,
            errors.InvalidImage, errors.Overloaded, errors.DeadlineExceeded, errors.InferenceFailed,
        )
    },
    "openapi_extra": {"requestBody": REQUEST_BODY},
}  # fmt: skip


class OpenInference:
    """The endpoint that infers."""

    def __init__(self, models: ServedModels, classifier: Classifier, settings: Settings, metrics: Metrics) -> None:
        self._models, self._classifier, self._settings = models, classifier, settings
        self._received = metrics.histogram("convoy_stage_seconds", "receive")

    async def __call__(self, request: Incoming) -> Reply:
        """Answer one request, all of it or nothing of it; raises `ServiceError`."""
        settings = self._settings
        _, _, _, model, *versions, _ = request.path.split("/")
        chosen = self._models.choose(model, versions[-1] if versions else None)
        check_encoding(request)
        body = await request.whole(settings.max_body_bytes)
        length = tensors.json_length(body, text(request.headers.get(HEADER_LENGTH)))
        if length <= INLINE_BYTES:
            asked = tensors.read(body, length, settings)
        else:
            asked = await asyncio.to_thread(tensors.read, body, length, settings)
        if not len(asked.pictures):
            raise EmptyRequest("The request holds no image; send at least one.")
        longest_ms = settings.request_timeout_ms
        deadline = request.deadline(min(asked.timeout_us / 1000 or longest_ms, longest_ms))
        self._received.observe(time.perf_counter() - request.began)
        priority = Priority.BULK if asked.priority > 1 else Priority.INTERACTIVE
        outcomes = await self._classifier.classify(asked.pictures, model=chosen, deadline=deadline, priority=priority)
        answered = time.perf_counter()
        predicted: list[Prediction] = []
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, Prediction):
                predicted.append(outcome)
            elif len(outcomes) == 1 or isinstance(outcome, DeviceLost):  # which is no image's fault
                raise outcome
            else:
                raise type(outcome)(f"Image {place}: {outcome.detail}")
        answer, header = tensors.write(chosen.loaded.identity, asked, predicted)
        if header is None:
            return Reply(200, tensors.JSON, answer, since=answered)
        return Reply(200, tensors.BINARY, answer, ((HEADER_LENGTH, b"%d" % header),), answered)


def router(models: ServedModels, metrics: Metrics, direct: DirectRoutes) -> APIRouter:
    """The protocol's routes, bound to the core; what infers is among `direct`."""
    routes = APIRouter(prefix=PREFIX, tags=["open inference protocol"], route_class=direct.documented())
    repository = models.repository

    @routes.get("")
    async def server() -> bodies.Server:
        """What answers here."""
        return bodies.Server(name="convoy", version=version_of("convoy"), extensions=EXTENSIONS)

    @routes.get("/health/live")
    async def live() -> bodies.Live:
        """The process answers."""
        return bodies.Live(live=True)

    @routes.get("/health/ready", response_model_exclude_none=True, responses=NOT_READY)
    async def ready(response: Response) -> bodies.Ready:
        """The same as /readyz."""
        return _ready(models, response)

    @routes.get("/models/stats", responses=NOT_FOUND)
    @routes.get("/models/{model}/stats", responses=NOT_FOUND)
    @routes.get("/models/{model}/versions/{version}/stats", responses=NOT_FOUND)
    async def statistics(model: str | None = None, version: str | None = None) -> bodies.Statistics:
        """What became of images: of one version, of a model's, or of all."""
        chosen: Iterable[LoadedModel]
        if model:
            chosen = [repository.get(model, version)] if version else repository.versions(model).values()
        else:
            chosen = repository.inventory.models()
        return bodies.Statistics(model_stats=[_statistics(loaded, metrics) for loaded in chosen])

    @routes.get("/models/{model}", responses=NOT_FOUND)
    @routes.get("/models/{model}/versions/{version}", responses=NOT_FOUND)
    async def metadata(model: str, version: str | None = None) -> bodies.Model:
        """A model's tensors."""
        return _metadata(repository.get(model, version), list(repository.versions(model)))

    @routes.get("/models/{model}/config", responses=NOT_FOUND)
    @routes.get("/models/{model}/versions/{version}/config", responses=NOT_FOUND)
    async def config(model: str, version: str | None = None) -> bodies.Config:
        """The same in Triton's words."""
        return _config(repository.get(model, version))

    @routes.get("/models/{model}/ready", responses={**NOT_READY, **NOT_FOUND})
    @routes.get("/models/{model}/versions/{version}/ready", responses={**NOT_READY, **NOT_FOUND})
    async def model_ready(response: Response, model: str, version: str | None = None) -> bodies.Ready:
        """Whether the model answered lately."""
        return _ready(models, response, repository.get(model, version).identity.name)

    @routes.post(PATHS[0].removeprefix(PREFIX), **INFER)
    @routes.post(PATHS[1].removeprefix(PREFIX), **INFER)
    async def infer(model: str, version: str | None = None) -> None:
        """Classify images: all of them, or none where one is bad."""

    @routes.post("/repository/index")
    async def index(request: bodies.IndexRequest | None = None) -> list[bodies.IndexEntry]:
        """Every version in the model repository."""
        loaded = [
            bodies.IndexEntry(name=model.identity.name, version=model.identity.version, state="READY")
            for model in repository.inventory.models()
        ]
        failed = [
            bodies.IndexEntry(name=name, version=version, state="UNAVAILABLE", reason=reason)
            for (name, version), reason in repository.failed.items()
        ]
        return loaded if request and request.ready else loaded + failed

    return routes


def _ready(models: ServedModels, response: Response, name: str | None = None) -> bodies.Ready:
    try:
        models.check_ready(name)
    except (Draining, NotReady):
        response.status_code = NotReady.status
    return bodies.Ready(name=name, ready=response.status_code != NotReady.status)


def _metadata(loaded: LoadedModel, versions: list[str]) -> bodies.Model:
    image, classes = loaded.metadata.input, len(loaded.identity.labels)
    return bodies.Model(
        name=loaded.identity.name,
        versions=versions,
        platform=PLATFORM,
        inputs=[bodies.TensorMetadata(name=IMAGE, datatype="UINT8", shape=[-1, image.height, image.width, 3])],
        outputs=[bodies.TensorMetadata(name=PROBABILITIES, datatype="FP32", shape=[-1, classes])],
    )


def _config(loaded: LoadedModel) -> bodies.Config:
    image, classes = loaded.metadata.input, len(loaded.identity.labels)
    return bodies.Config(
        name=loaded.identity.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=loaded.engine.max_batch_size,
        input=[bodies.TensorConfig(name=IMAGE, data_type="TYPE_UINT8", dims=[image.height, image.width, 3])],
        output=[bodies.TensorConfig(name=PROBABILITIES, data_type="TYPE_FP32", dims=[classes])],
    )


def _statistics(loaded: LoadedModel, metrics: Metrics) -> bodies.VersionStatistics:
    identity = loaded.identity
    answered = int(metrics.total("convoy_images_total", identity.name, identity.version, "predicted"))
    failed = int(metrics.total("convoy_images_total", identity.name, identity.version)) - answered
    return bodies.VersionStatistics(
        name=identity.name,
        version=identity.version,
        inference_count=answered,
        inference_stats=bodies.Outcomes(success=bodies.Count(count=answered), fail=bodies.Count(count=failed)),
    )
