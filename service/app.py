"""Settings → the application: its parts are built here, in the order in which a request meets them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI
from starlette.types import Receive, Scope, Send

from service.administration import Administration
from service.api import batches, explain, health, models, openapi, page, predict, problems, queries
from service.api import metrics as metrics_route
from service.api.authentication import AdminRight, Keys, KeysMiddleware
from service.api.body_room import BodyRoom
from service.api.cors import Origins
from service.api.direct import DirectRoute, DirectRoutes
from service.api.open_inference import routes as open_inference
from service.api.page import PREFIX
from service.api.request_log import RequestLog, RequestLogMiddleware
from service.classifier import Classifier
from service.cores import default_workers, threads_per_worker
from service.counters import Counters
from service.errors import StartupError
from service.explain import Explainer
from service.jobs.runner import Runner
from service.jobs.store import Store
from service.keys import read_keys
from service.loading import opener
from service.metrics import Metrics
from service.repository import ModelRepository
from service.serving import ServedModels
from service.settings import Settings

if TYPE_CHECKING:
    from service.rpc.server import RpcServer


class Application(FastAPI):
    """FastAPI with a way around it for the hot routes: its routing and middleware cost as much as the rest."""

    direct: DirectRoutes
    rpc: RpcServer | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of the ASGI server."""
        direct: DirectRoute | None = None
        if scope["type"] == "http":
            scope = _without_prefix(scope)
            direct = self.direct.find(scope["method"], scope["path"])
        await (direct or super().__call__)(scope, receive, send)


def _without_prefix(scope: Scope) -> Scope:
    """What is asked for: a server behind a prefix leaves that in the path, and says it (ASGI's `root_path`).

    Nothing behind this looks for it again, as routing would: keys that are asked for on one path open no other.
    """
    prefix = scope.get("root_path", "").rstrip("/")
    if not prefix:
        return scope
    path = scope["path"].removeprefix(prefix) if scope["path"].startswith(f"{prefix}/") else scope["path"]
    return {**scope, "path": path, "root_path": "", PREFIX: prefix}


@dataclass(frozen=True, slots=True)
class _Parts:
    """What requests have in common."""

    settings: Settings
    keys: Keys | None
    origins: Origins
    right: AdminRight
    repository: ModelRepository
    metrics: Metrics
    log: RequestLog
    served: ServedModels
    administration: Administration
    classifier: Classifier
    explainer: Explainer
    store: Store
    runner: Runner


def create_app(settings: Settings, counters: Counters | None = None, number: int = 0) -> Application:
    """The application with its models loaded; `number` as for `Engine`. Raises `StartupError` if it can't serve."""
    parts = _parts(settings, Metrics(counters or Counters.alone()), number)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await parts.served.start()
        parts.runner.start()
        yield
        if app.rpc:
            await app.rpc.stop()  # its requests need what ends here
        await parts.runner.stop()
        await parts.served.stop()
        parts.explainer.close()

    app = Application(
        title="Convoy",
        version=version("convoy"),
        summary="Image classification with calibrated probabilities.",
        lifespan=lifespan,
        openapi_url=None,  # the page's room has it, as a route that is counted,
        docs_url=None,  # and one of these that works behind a prefix, too
        redoc_url=None,
        redirect_slashes=False,  # to the scheme and host that a balancer knows, and this process does not
    )
    app.state.served, app.state.classifier, app.state.metrics = parts.served, parts.classifier, parts.metrics
    app.state.store, app.state.runner, app.state.administration = parts.store, parts.runner, parts.administration
    app.rpc = _rpc(parts) if settings.grpc_port is not None else None
    app.direct = _direct(parts)
    _include_routes(app, parts)
    problems.install(app)
    if parts.keys:
        app.add_middleware(KeysMiddleware, keys=parts.keys)
    parts.origins.install(app)  # around the keys: browsers ask beforehand, and send none
    # the outermost: what keys refuse is counted too
    app.add_middleware(
        RequestLogMiddleware, log=parts.log, origins=parts.origins, draining=lambda: parts.served.draining
    )
    document = partial(openapi.document, app, keyed=parts.keys is not None)
    app.openapi = cache(document)  # type: ignore[method-assign]  # FastAPI says to
    return app


def _parts(settings: Settings, metrics: Metrics, number: int) -> _Parts:
    keys, right = _keys(settings)  # before the models, which take their time
    threads = settings.threads or threads_per_worker(settings.workers or default_workers(settings.device))
    open_engine = opener(settings, threads=threads, number=number)
    repository = ModelRepository(settings.models_dir, settings.default_model, open_engine)
    served = ServedModels(repository, settings, metrics)
    classifier = Classifier(served, settings, metrics)
    store = Store(settings.jobs_dir)
    return _Parts(
        settings=settings,
        keys=keys,
        origins=Origins(settings.origins),
        right=right,
        repository=repository,
        metrics=metrics,
        log=RequestLog(metrics, settings.log_requests),
        served=served,
        administration=Administration(served),
        classifier=classifier,
        explainer=Explainer(classifier, settings.client_images),
        store=store,
        runner=Runner(store, served, classifier, settings),
    )


def _keys(settings: Settings) -> tuple[Keys | None, AdminRight]:
    """The keys that clients need, if they need any, and the right that some have besides."""
    asking = read_keys(settings.api_keys_file) if settings.api_keys_file else []
    admins = read_keys(settings.admin_keys_file) if settings.admin_keys_file else []
    keys = Keys([*asking, *admins]) if asking else None
    return keys, AdminRight(Keys(admins) if admins else None, keys)


def _include_routes(app: Application, parts: _Parts) -> None:
    strict = [Depends(queries.only_declared)]
    settings, served, administration, right = parts.settings, parts.served, parts.administration, parts.right
    app.include_router(predict.router())
    app.include_router(explain.router())
    app.include_router(batches.router(parts.store, parts.runner, served, settings), dependencies=strict)
    app.include_router(models.router(parts.repository, administration, right, settings), dependencies=strict)
    tensors = open_inference.router(served, administration, right, parts.metrics)
    app.include_router(tensors, dependencies=strict)
    app.include_router(open_inference.probes(served))
    app.include_router(health.router(served))
    app.include_router(metrics_route.router(parts.metrics, parts.store))
    app.include_router(page.router())


def _direct(parts: _Parts) -> DirectRoutes:
    """The hot routes: those that infer."""
    settings, served, classifier, metrics = parts.settings, parts.served, parts.classifier, parts.metrics
    route = partial(
        DirectRoute,
        draining=lambda: served.draining,
        keys=parts.keys,
        origins=parts.origins,
        max_body_bytes=settings.max_body_bytes,
        room=BodyRoom(settings.queue_bytes),
        log=parts.log,
        metrics=metrics,
    )
    images = predict.Predict(served, classifier, settings, metrics)
    tensors = open_inference.OpenInference(served, classifier, settings, metrics)
    return DirectRoutes(
        route(predict.METHOD, predict.PATH, images, refusal=images.refusal),
        *(route(open_inference.METHOD, path, tensors) for path in open_inference.PATHS),
        route(explain.METHOD, explain.PATH, explain.Explain(served, parts.explainer, settings)),
        log=parts.log,
    )


def _rpc(parts: _Parts) -> RpcServer:
    """The same core over gRPC."""
    try:
        from service.rpc.methods import Methods
        from service.rpc.server import RpcServer
    except ModuleNotFoundError as exc:
        raise StartupError("gRPC is not installed here; in the checkout: pip install '.[cpu,grpc]'") from exc
    methods = Methods(parts.served, parts.administration, parts.classifier, parts.settings, parts.metrics)
    return RpcServer(methods, parts.settings, parts.log, parts.keys, parts.right)
