"""POST /v1/predict: images in any accepted form → calibrated probabilities."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import APIRouter, Header, Query, Request, Response

from service import errors
from service.api import npy, problems
from service.api.accept import negotiate
from service.api.bodies import PREDICT_BODIES, PredictResponse
from service.api.uploads import Upload, read_uploads
from service.classifier import Classifier
from service.errors import InvalidImage, MalformedRequest, ServiceError
from service.prediction import ModelIdentity, Prediction
from service.settings import Settings

JSON = "application/json"
Outcome = Prediction | ServiceError
NPY_SCHEMA = {"type": "string", "format": "binary", "description": "A .npy file: float32 (N, classes)."}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {npy.MEDIA_TYPE: {"schema": NPY_SCHEMA}}},
    **problems.documented(
        errors.MalformedRequest, errors.ModelNotFound, errors.NotAcceptable, errors.BodyTooLarge, errors.TooManyImages,
        errors.UnsupportedMediaType, errors.InvalidImage, errors.ImageTooLarge, errors.WrongShape, errors.EmptyRequest,
        errors.Overloaded, errors.Draining, errors.DeadlineExceeded, errors.InferenceFailed,
    ),
}  # fmt: skip


def router(classifier: Classifier, settings: Settings) -> APIRouter:
    """The route, bound to the core it translates for."""
    routes = APIRouter(tags=["predict"])

    @routes.post(
        "/v1/predict",
        response_model=PredictResponse,
        responses=RESPONSES,
        openapi_extra={"requestBody": PREDICT_BODIES},
    )
    async def predict(
        request: Request,
        model: Annotated[str | None, Query(description="Default: the configured model.")] = None,
        version: Annotated[str | None, Query(description="Default: the active version.")] = None,
        top_k: Annotated[
            int | None, Query(ge=1, description="Only the k most probable classes, in falling order.")
        ] = None,
        timeout_ms: Annotated[
            int | None, Header(alias="X-Request-Timeout-Ms", ge=1, description="This request's deadline.")
        ] = None,
    ) -> Response:
        """Classify the images of the body, in order. One bad image among several has an `error` at its place."""
        allowed_ms = min(timeout_ms or settings.request_timeout_ms, settings.request_timeout_ms)
        deadline = asyncio.get_running_loop().time() + allowed_ms / 1000
        media_type = negotiate(request.headers.get("accept"), (JSON, npy.MEDIA_TYPE))
        chosen = classifier.choose(model, version).identity
        if top_k is not None and top_k > len(chosen.labels):
            raise MalformedRequest(
                f"query top_k: the model has {len(chosen.labels)} classes; ask for at most that many."
            )
        uploads = await read_uploads(request, settings)
        outcomes = await _classify(classifier, uploads, chosen, deadline)
        failures = [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]
        if failures and (len(failures) == len(outcomes) or media_type == npy.MEDIA_TYPE):
            raise failures[0]
        if media_type == npy.MEDIA_TYPE:
            return Response(
                npy.dump(np.stack([o.probabilities for o in outcomes if isinstance(o, Prediction)])),
                media_type=media_type,
            )
        return Response(_json(chosen, uploads, outcomes, top_k), media_type=JSON)

    return routes


async def _classify(
    classifier: Classifier, uploads: list[Upload], model: ModelIdentity, deadline: float
) -> list[Outcome]:
    """One outcome per upload; those that hold no picture keep their error."""
    pictures = [upload.picture for upload in uploads if not isinstance(upload.picture, InvalidImage)]
    answers = iter(await classifier.classify(pictures, model=model.name, version=model.version, deadline=deadline))
    return [u.picture if isinstance(u.picture, InvalidImage) else next(answers) for u in uploads]


def _json(model: ModelIdentity, uploads: list[Upload], outcomes: list[Outcome], top_k: int | None) -> bytes:
    predictions = [
        {"index": index, "filename": upload.filename, **_outcome(outcome, top_k)}
        for index, (upload, outcome) in enumerate(zip(uploads, outcomes, strict=True))
    ]
    reference = {"name": model.name, "version": model.version, "digest": model.digest}
    return orjson.dumps({"model": reference, "predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)


def _outcome(outcome: Outcome, top_k: int | None) -> dict[str, Any]:
    if isinstance(outcome, ServiceError):
        return {"error": {"type": outcome.slug, "title": outcome.title, "detail": outcome.detail}}
    index = outcome.index
    return {
        "label": outcome.model.labels[index],
        "probability": outcome.probabilities[index],
        "probabilities": dict(outcome.top(top_k)),
    }
