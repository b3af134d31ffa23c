"""Settings → the application: its parts are built here, in the order in which a request meets them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api import health, models, predict, problems
from service.api.bodies import Problem
from service.api.request_log import RequestLog
from service.classifier import Classifier
from service.cores import default_workers, threads_per_worker
from service.counters import Counters
from service.engine import Engine
from service.metadata import ModelMetadata
from service.metrics import Metrics
from service.repository import ModelRepository
from service.settings import Settings


def create_app(settings: Settings, counters: Counters | None = None) -> FastAPI:
    """The application with its models loaded; raises `StartupError` when it could not serve."""

    def open_engine(metadata: ModelMetadata, model_file: Path) -> Engine:
        return Engine(
            model_file,
            device=settings.device,
            classes=len(metadata.labels),
            height=metadata.input.height,
            width=metadata.input.width,
            max_batch_size=settings.max_batch_size,
            threads=settings.threads or threads_per_worker(settings.workers or default_workers(settings.device)),
        )

    repository = ModelRepository(settings.models_dir, open_engine)
    repository.load_all(settings.default_model)
    classifier = Classifier(repository, settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await classifier.start()
        yield
        await classifier.stop()

    app = FastAPI(
        title="Convoy",
        version=version("convoy"),
        summary="Image classification with calibrated probabilities.",
        lifespan=lifespan,
    )
    app.state.classifier = classifier
    app.state.metrics = Metrics(counters or Counters.alone())
    app.include_router(predict.router(classifier, settings))
    app.include_router(models.router(repository, settings))
    app.include_router(health.router(classifier))
    problems.install(app)
    app.add_middleware(RequestLog)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with errors as they really are: problem+json, and 400 instead of FastAPI's own 422."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = document["components"]["schemas"]
        schemas["Problem"] = Problem.model_json_schema()
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path in document["paths"].values():
            for operation in path.values():
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
        app.openapi_schema = document
    return app.openapi_schema
