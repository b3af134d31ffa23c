"""/v2: translates in, one call to the core, translates out. Errors are `{"error": "<what to do>"}` here.

`problems` sees to that, for everything below the prefix.
"""

from __future__ import annotations

import time
from enum import Enum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from service import errors
from service.administration import Administration
from service.api import problems
from service.api.authentication import AdminRight
from service.api.incoming import Incoming, Reply, text
from service.api.open_inference import bodies, descriptions, inference, tensors
from service.api.threads import added_up
from service.api.uploads import INLINE_BYTES, check_encoding
from service.classifier import Classifier
from service.errors import Draining, NotReady, ServiceError
from service.metadata import INPUT
from service.metrics import Metrics
from service.serving import ServedModels
from service.settings import Settings

PREFIX = problems.OPEN_INFERENCE
METHOD, PATHS = "POST", (f"{PREFIX}/models/{{model}}/infer", f"{PREFIX}/models/{{model}}/versions/{{version}}/infer")
HEADER_LENGTH = b"inference-header-content-length"
REFERENCE = "#/components/schemas/{model}"
SCHEMAS = bodies.schemas(REFERENCE)  # FastAPI does not find these: routes read bodies and answer errors themselves
TAGS: list[str | Enum] = ["open inference protocol"]
REQUEST_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": REFERENCE.format(model="InferRequest")},
            "example": {"inputs": [{"name": INPUT, "shape": [1], "datatype": "BYTES", "data": ["<base64>"]}]},
        },
        "application/octet-stream": {
            "schema": {"type": "string", "format": "binary", "description": "The JSON object, then binary tensors."}
        },
    },
}

REPOSITORY_BYTES = 64 << 10  # of a request about the repository


def _in_path(name: str) -> Any:  # noqa: ANN401 - as FastAPI says it
    """What the path says there, if it has such a place; of a plain parameter FastAPI would make one of the query."""

    async def read(request: Request) -> str | None:
        value: str | None = request.path_params.get(name)
        return value

    return Depends(read)


Model = Annotated[str | None, _in_path("model")]
Version = Annotated[str | None, _in_path("version")]
Responses = dict[int | str, dict[str, Any]]


def documented(
    *refusals: type[ServiceError], answer: type[bodies.Failure | bodies.Ready] = bodies.Failure
) -> Responses:
    """What OpenAPI says about the errors of a route.

    The bodies are references: where a `model` is named, FastAPI makes a validator of it for each status of each route.
    """
    schema = {"$ref": REFERENCE.format(model=answer.__name__)}
    return {
        refusal.status.value: {"description": refusal.title, "content": {"application/json": {"schema": schema}}}
        for refusal in refusals
    }


NOT_READY = documented(NotReady, answer=bodies.Ready)
NOT_FOUND = documented(errors.ModelNotFound)
INFER: dict[str, Any] = {
    "response_model": bodies.InferResponse,
    "responses": documented(
        errors.MalformedRequest, errors.Forbidden, errors.ModelNotFound, errors.BodyTooLarge,
        errors.UnsupportedMediaType, errors.InvalidImage, errors.TooManyRequests, errors.Overloaded,
        errors.DeadlineExceeded, errors.InferenceFailed,
    ),
    "openapi_extra": {"requestBody": REQUEST_BODY},
    "dependencies": [problems.ONLY_DOCUMENTED],
}  # fmt: skip

ADMIN = documented(
    errors.Unauthorized, errors.Forbidden, errors.ModelNotFound, errors.Conflict, errors.BodyTooLarge,
    errors.StorageFailed, errors.Draining,
)  # fmt: skip


class OpenInference:
    """The endpoint that infers."""

    def __init__(self, models: ServedModels, classifier: Classifier, settings: Settings, metrics: Metrics) -> None:
        self._models, self._classifier, self._settings = models, classifier, settings
        self._received = metrics.histogram("convoy_stage_seconds", "receive")

    async def __call__(self, request: Incoming) -> Reply:
        """Answer one request, all of it or nothing of it; raises `ServiceError`."""
        settings = self._settings
        request.check_query()
        _, _, _, model, *versions, _ = request.path.split("/")
        chosen = self._models.choose(model, versions[-1] if versions else None)
        check_encoding(request)
        request.deadline(settings.request_timeout_ms)  # of its body too; what is in it may ask for less
        body = await request.whole(settings.max_body_bytes)
        length = tensors.json_length(body, text(request.headers.get(HEADER_LENGTH)))
        if length <= INLINE_BYTES:
            asked = tensors.read(body, length, settings)
        else:
            asked = await request.parsed(tensors.read, body, length, settings)
        deadline = request.deadline(inference.longest_ms(asked, settings))
        self._received.observe(time.perf_counter() - request.began)
        predicted = await inference.infer(self._classifier, asked, chosen, deadline)
        answered = time.perf_counter()
        answer, header = tensors.write(chosen.loaded.identity, asked, predicted)
        if header is None:
            return Reply(200, tensors.JSON, answer, since=answered)
        return Reply(200, tensors.BINARY, answer, ((HEADER_LENGTH, b"%d" % header),), answered)


def probes(models: ServedModels) -> APIRouter:
    """The routes that tell how the process is; balancers may ask with whatever in the query they like."""
    routes = APIRouter(prefix=f"{PREFIX}/health", tags=TAGS)

    @routes.get("/live")
    async def live() -> bodies.Live:
        """The process answers."""
        return bodies.Live(live=True)

    @routes.get("/ready", response_model_exclude_none=True, responses=NOT_READY)
    async def ready(response: Response) -> bodies.Ready:
        """The same as /readyz."""
        return _ready(models, response)

    return routes


def router(models: ServedModels, administration: Administration, right: AdminRight, metrics: Metrics) -> APIRouter:
    """The protocol's routes, bound to the core; what infers is a direct one, and only documented here."""
    routes = APIRouter(prefix=PREFIX, tags=TAGS)
    repository = models.repository

    @routes.get("")
    async def server() -> bodies.Server:
        """What answers here."""
        return descriptions.server()

    @routes.get("/models/stats", responses=NOT_FOUND)
    @routes.get("/models/{model}/stats", responses=NOT_FOUND)
    @routes.get("/models/{model}/versions/{version}/stats", responses=NOT_FOUND)
    async def statistics(model: Model, version: Version) -> bodies.Statistics:
        """What became of images: of one version, of a model's, or of all."""
        chosen = descriptions.chosen(repository, model, version)
        return await added_up(descriptions.counted, chosen, metrics)

    @routes.get("/models/{model}", responses=NOT_FOUND)
    @routes.get("/models/{model}/versions/{version}", responses=NOT_FOUND)
    async def metadata(model: str, version: Version) -> bodies.Model:
        """A model's tensors."""
        return descriptions.metadata(repository, model, version)

    @routes.get("/models/{model}/config", responses=NOT_FOUND)
    @routes.get("/models/{model}/versions/{version}/config", responses=NOT_FOUND)
    async def config(model: str, version: Version) -> bodies.Config:
        """The same in Triton's words."""
        return descriptions.config(repository, model, version)

    @routes.get("/models/{model}/ready", responses={**NOT_READY, **NOT_FOUND})
    @routes.get("/models/{model}/versions/{version}/ready", responses={**NOT_READY, **NOT_FOUND})
    async def model_ready(response: Response, model: str, version: Version) -> bodies.Ready:
        """Whether the model answered lately."""
        return _ready(models, response, repository.get(model, version).identity.name)

    @routes.post(PATHS[0].removeprefix(PREFIX), **INFER)
    @routes.post(PATHS[1].removeprefix(PREFIX), **INFER)
    async def infer(model: str) -> None:
        """Classify images: all of them, or none where one is bad."""

    @routes.post(
        "/repository/index",
        responses=documented(errors.BodyTooLarge, errors.Draining),
        openapi_extra=_taking(bodies.IndexRequest),
    )
    async def index(request: Annotated[bodies.IndexRequest, _sent(bodies.IndexRequest)]) -> list[bodies.IndexEntry]:
        """Every version in the model repository."""
        return descriptions.index(repository, ready=request.ready)

    @routes.post(
        "/repository/models/{model}/load",
        responses=ADMIN,
        dependencies=[Depends(right), _sent(bodies.LoadRequest)],  # in this order: its body is read for nobody else
        openapi_extra=_taking(bodies.LoadRequest, admin=True),
    )
    async def load(model: str) -> None:
        """Serve all versions of a model that are stored, or leave everything as it was."""
        await administration.load_all(model)

    @routes.post(
        "/repository/models/{model}/unload",
        responses=ADMIN,
        dependencies=[Depends(right), _sent(bodies.UnloadRequest)],
        openapi_extra=_taking(bodies.UnloadRequest, admin=True),
    )
    async def unload(model: str) -> None:
        """Serve no version of a model any more; the default model can't be unloaded."""
        await administration.unload_all(model)

    return routes


def _sent(kind: type[bodies.Request]) -> Any:  # noqa: ANN401 - as FastAPI says it
    """What a request about the repository says, if anything: FastAPI itself would read a body of any size."""

    async def read(request: Request) -> bodies.Request:
        content = await Incoming.of(request.scope, request.receive).whole(REPOSITORY_BYTES)
        return kind.parse(content) if content else kind()

    return Depends(read)


def _taking(kind: type[bodies.Request], *, admin: bool = False) -> dict[str, Any]:
    """The operation's part of the OpenAPI document that FastAPI does not know."""
    content = {"application/json": {"schema": {"$ref": REFERENCE.format(model=kind.__name__)}}}
    return {"requestBody": {"content": content}} | ({"security": [{"key": []}]} if admin else {})


def _ready(models: ServedModels, response: Response, name: str | None = None) -> bodies.Ready:
    try:
        models.check_ready(name)
    except (Draining, NotReady) as exc:
        response.status_code = NotReady.status
        response.headers["Retry-After"] = str(exc.retry_after_s)
    return bodies.Ready(name=name, ready=response.status_code != NotReady.status)
