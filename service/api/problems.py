"""Errors → `application/problem+json` (RFC 9457), the same for every route."""

from __future__ import annotations

from functools import partial
from typing import Any, NoReturn

import orjson
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from service import telemetry
from service.api import wording
from service.api.incoming import Reply
from service.errors import (
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    RangeNotSatisfiable,
    ServiceError,
    Unauthorized,
)

MEDIA_TYPE = "application/problem+json"
OPEN_INFERENCE = "/v2"  # the prefix of that protocol, whose errors look otherwise
REQUEST_ID = "9ca45a59637f541b814a161b98dbd5b2"  # in examples
CLIENT_CLOSED_REQUEST = 499  # nobody reads it; it is what nginx logs for this
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")  # in an Allow header
NOTHING_HERE = "There is nothing at this path; /docs lists what there is."


def body(error: ServiceError, instance: str | None = None) -> dict[str, Any]:
    """The problem object of `error`; `instance` is the request's id, by default that of the request at hand."""
    return {
        "type": f"/problems/{error.slug}",
        "title": error.title,
        "status": int(error.status),
        "detail": error.detail,
        "instance": telemetry.request_id.get() if instance is None else instance,
    }


def reply(error: ServiceError, path: str, instance: str | None = None) -> Reply:
    """What the direct route at `path` answers with; `instance` as for `body`."""
    headers = tuple((name.encode(), value.encode()) for name, value in _headers(error).items())
    content, media_type = _content(error, path, instance)
    return Reply(int(error.status), media_type.encode(), content, headers)


def response(error: ServiceError, path: str, headers: dict[str, str] | None = None) -> Response:
    """What the framework's route at `path` answers with."""
    headers = {**(headers or {}), **_headers(error)}
    content, media_type = _content(error, path)
    return Response(content, status_code=error.status, headers=headers, media_type=media_type)


def _content(error: ServiceError, path: str, instance: str | None = None) -> tuple[bytes, str]:
    """The body and its media type, as clients of that path expect them."""
    if below(path, OPEN_INFERENCE):
        return orjson.dumps({"error": error.detail}), "application/json"
    return orjson.dumps(body(error, instance)), MEDIA_TYPE


async def _no_such_path() -> NoReturn:
    """What comes to a route that is only documented has not got its path: the framework lets a line break end it."""
    raise NotFound(NOTHING_HERE)


ONLY_DOCUMENTED = Depends(_no_such_path)  # a dependency of the direct routes' declarations


def below(path: str, root: str) -> bool:
    """Whether `path` is `root` or in it."""
    return path == root or path.startswith(root + "/")


def _headers(error: ServiceError) -> dict[str, str]:
    """What a client may need besides the body."""
    if isinstance(error, Unauthorized):
        return {"www-authenticate": "Bearer"}
    if isinstance(error, RangeNotSatisfiable) and error.size is not None:
        return {"content-range": f"bytes */{error.size}"}  # who fetches the rest of a whole file sees that it is
    return {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}


def documented(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says about the errors of a route."""
    responses: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        entry = responses.setdefault(
            int(error.status),
            {
                "description": "",
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )
        entry["description"] = ", ".join(filter(None, [entry["description"], error.title]))
        example = body(error("What to do about it."), REQUEST_ID)
        entry["content"][MEDIA_TYPE]["examples"][error.slug] = {"value": example}
    return responses


def install(app: FastAPI) -> None:
    """Answer every foreseen exception of `app` with its problem; `RequestLog` answers the others."""

    @app.exception_handler(ServiceError)
    async def _known(request: Request, exc: ServiceError) -> Response:
        return response(exc, request.scope["path"])

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, exc: RequestValidationError) -> Response:
        return response(MalformedRequest(wording.sentence(exc.errors(), between=" ")), request.scope["path"])

    @app.exception_handler(HTTPException)
    async def _routing(request: Request, exc: HTTPException) -> Response:
        path = request.scope["path"]
        if exc.status_code != MethodNotAllowed.status:
            return response(NotFound(NOTHING_HERE), path, dict(exc.headers) if exc.headers else None)
        error = MethodNotAllowed("This path does not take that method; the Allow header lists those it takes.")
        return response(error, path, {"allow": ", ".join(filter(partial(_takes, request), METHODS))})

    @app.exception_handler(ClientDisconnect)
    async def _gone(_request: Request, _exc: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


def _takes(request: Request, method: str) -> bool:
    """Whether the path of `request` takes `method`: routing itself names only those of the first route of a path."""
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
