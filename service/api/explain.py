"""POST /v1/explain: one picture → its prediction, what that rests on, and what the network makes of the picture."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter

from service.api import problems, queries
from service.api.accept import negotiate
from service.api.bodies import ExplainResponse
from service.api.incoming import Incoming, Reply, text
from service.api.predict import ERRORS, JSON, reference_to
from service.api.request_bodies import PREDICT_BODIES
from service.api.uploads import read_uploads
from service.drawing import data_url
from service.errors import TooManyImages
from service.explain import Explainer, Explanation
from service.serving import ServedModels
from service.settings import Settings

METHOD, PATH = "POST", "/v1/explain"


class Explain:
    """The endpoint: translates in, calls the core once, translates out."""

    def __init__(self, models: ServedModels, explainer: Explainer, settings: Settings) -> None:
        self._models, self._explainer, self._settings = models, explainer, settings

    async def __call__(self, request: Incoming) -> Reply:
        """Answer one request; raises `ServiceError`."""
        deadline = request.deadline(self._settings.request_timeout_ms)
        negotiate(text(request.headers.get(b"accept")), (JSON,))
        request.check_query("model", "version")
        model = self._models.choose(request.query("model"), request.query("version"))
        uploads = await read_uploads(request, self._settings)
        if len(uploads.pictures) > 1:
            raise TooManyImages("One picture is explained at a time; send one.")
        picture, (filename, *_) = uploads.pictures[0], uploads.filenames or (None,)
        return Reply(200, JSON.encode(), _json(await self._explainer.explain(picture, model, deadline), filename))


def _json(explanation: Explanation, filename: str | None) -> bytes:
    prediction, occlusion, stages = explanation
    answer: dict[str, Any] = {
        "model": reference_to(prediction.model),
        "prediction": {"index": 0, "filename": filename, **prediction.summary()},
        "occlusion": occlusion._asdict() | {"image": data_url(occlusion.image)},
        "stages": [stage._asdict() | {"image": data_url(stage.image)} for stage in stages],
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def router() -> APIRouter:
    """What OpenAPI says of the route, which is a direct one."""
    routes = APIRouter(tags=["explain"], dependencies=[problems.ONLY_DOCUMENTED])

    @routes.api_route(
        PATH,
        methods=[METHOD],
        response_model=ExplainResponse,
        responses=ERRORS,
        openapi_extra={"requestBody": PREDICT_BODIES},
    )
    async def explain(
        model: queries.Model = None,
        version: queries.Version = None,
        timeout_ms: queries.TimeoutMs = None,
    ) -> None:
        """Show what the prediction for one picture rests on, and what each stage of the network makes of it.

        The prediction and what it rests on come from the file that serves; the stages from the fp32 one.
        """

    return routes
