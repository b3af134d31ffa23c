"""POST /v1/predict: images in any accepted form → calibrated probabilities.

The hot route: a plain function of the request, reached past routing and middleware; FastAPI only documents it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import count, repeat
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter

from service import errors
from service.api import npy, problems, queries
from service.api.accept import negotiate
from service.api.bodies import PredictResponse
from service.api.incoming import Incoming, Reply, positive, text
from service.api.request_bodies import PREDICT_BODIES
from service.api.uploads import RAW_IMAGE, read_uploads
from service.classifier import Classifier
from service.coverage import Coverage
from service.errors import MalformedRequest, ServiceError
from service.metrics import Metrics
from service.prediction import ModelIdentity, Prediction
from service.serving import ServedModels
from service.settings import Settings

METHOD, PATH = "POST", "/v1/predict"
JSON = "application/json"
MEDIA_TYPES = (JSON, npy.MEDIA_TYPE)
ONE_IMAGE = {media_type.encode() for media_type in RAW_IMAGE}
Outcome = Prediction | ServiceError
NPY_SCHEMA = {"type": "string", "format": "binary", "description": "A .npy file: float32 (N, classes)."}
ERRORS = problems.documented(
    errors.MalformedRequest, errors.Forbidden, errors.ModelNotFound, errors.NotAcceptable, errors.BodyTooLarge,
    errors.TooManyImages, errors.UnsupportedMediaType, errors.InvalidImage, errors.ImageTooLarge, errors.WrongShape,
    errors.EmptyRequest, errors.TooManyRequests, errors.Overloaded, errors.Draining, errors.DeadlineExceeded,
    errors.InferenceFailed,
)  # fmt: skip
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {npy.MEDIA_TYPE: {"schema": NPY_SCHEMA}}},
    **ERRORS,
}


class Predict:
    """The endpoint: translates in, calls the core once, translates out."""

    def __init__(self, models: ServedModels, classifier: Classifier, settings: Settings, metrics: Metrics) -> None:
        self._models, self._classifier, self._settings = models, classifier, settings
        self._received = metrics.histogram("convoy_stage_seconds", "receive")

    async def __call__(self, request: Incoming) -> Reply:
        """Answer one request; raises `ServiceError`."""
        deadline = request.deadline(self._settings.request_timeout_ms)
        media_type = negotiate(text(request.headers.get(b"accept")), MEDIA_TYPES)
        request.check_query("model", "version", "top_k", "coverage")
        chosen = self._models.choose(request.query("model"), request.query("version"))
        model = chosen.loaded.identity
        top_k = positive(request.query("top_k"), "query top_k")
        queries.check_top_k(top_k, model)
        sets = queries.check_coverage(request.query("coverage"), chosen.loaded)
        if sets and media_type != JSON:
            raise MalformedRequest(f"query coverage: only {JSON} can hold prediction sets; accept that.")
        uploads = await read_uploads(request, self._settings)
        self._received.observe(time.perf_counter() - request.began)
        outcomes = await self._classifier.classify(uploads.pictures, model=chosen, deadline=deadline)
        answered = time.perf_counter()
        failures = [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]
        if failures and (len(failures) == len(outcomes) or media_type == npy.MEDIA_TYPE):
            raise failures[0]
        body = WRITERS[media_type](model, uploads.filenames or repeat(None), outcomes, top_k, sets)
        return Reply(200, media_type.encode(), body, since=answered)

    def refusal(self, request: Incoming) -> ServiceError | None:
        """Why one image for the default model can't be answered in time, if so; raises `MalformedRequest`.

        Under overload most requests end here: what each of them costs is missing for those that are answered.
        """
        served = self._models.choose()
        if not served.batcher.queued_rows or request.headers.get(b"content-type") not in ONE_IMAGE or request.has_query:
            return None
        deadline = request.deadline(self._settings.request_timeout_ms)
        refused = served.batcher.refusal(1, served.row_bytes, deadline=deadline)
        if refused:
            served.counts.failed(refused.slug)
        return refused


def _json(
    model: ModelIdentity,
    filenames: Iterable[str | None],
    outcomes: list[Outcome],
    top_k: int | None,
    sets: Coverage | None,
) -> bytes:
    predictions: list[dict[str, Any]] = [
        {"index": index, "filename": filename, "error": outcome.summary()}
        if isinstance(outcome, ServiceError)
        else {"index": index, "filename": filename, **outcome.summary(top_k, sets and sets.threshold)}
        for index, filename, outcome in zip(count(), filenames, outcomes, strict=False)
    ]
    about = {"coverage": sets.shown} if sets else {}
    answer = {"model": reference_to(model), **about, "predictions": predictions}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def reference_to(model: ModelIdentity) -> dict[str, str]:
    """Which weights answered, as `ModelReference` documents it."""
    return {"name": model.name, "version": model.version, "digest": model.digest}


def _npy(
    _model: ModelIdentity,
    _filenames: Iterable[str | None],
    outcomes: list[Outcome],
    _top_k: int | None,
    _sets: Coverage | None,
) -> bytes:
    return npy.dump(np.stack([outcome.probabilities for outcome in outcomes if isinstance(outcome, Prediction)]))


WRITERS = {JSON: _json, npy.MEDIA_TYPE: _npy}


def router() -> APIRouter:
    """What OpenAPI says of the route, which is a direct one."""
    routes = APIRouter(tags=["predict"], dependencies=[problems.ONLY_DOCUMENTED])

    @routes.api_route(
        PATH,
        methods=[METHOD],
        response_model=PredictResponse,
        responses=RESPONSES,
        openapi_extra={"requestBody": PREDICT_BODIES},
    )
    async def predict(
        model: queries.Model = None,
        version: queries.Version = None,
        top_k: queries.TopK = None,
        coverage: queries.CoverageAsked = None,
        timeout_ms: queries.TimeoutMs = None,
    ) -> None:
        """Classify the images of the body, in order. One bad image among several has an `error` at its place."""

    return routes
