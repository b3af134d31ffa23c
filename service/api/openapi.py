"""The application → its OpenAPI document: FastAPI's, with what FastAPI doesn't know about every request and answer."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api import problems
from service.api.authentication import closed
from service.api.bodies import Problem, ResultRow
from service.api.open_inference import routes as open_inference
from service.api.request_log import VALID
from service.errors import MalformedRequest, ServiceError, Unauthorized

Operation = dict[str, Any]
KEY = {"key": {"type": "http", "scheme": "bearer"}, "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
TEXT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 1}
ID = "This request's id: the client's own or a new one. It stands in the log and in every problem."
ASKED = {  # of every request
    "name": "X-Request-Id",
    "in": "header",
    "description": "The client's name for this request, instead of one that is made.",
    "schema": {**TEXT, "pattern": f"^{VALID.pattern.decode()}$"},
}
ANSWERED = {"X-Request-Id": {"description": ID, "schema": TEXT}}  # with every answer
ANSWERED_WITH: dict[str, dict[str, Any]] = {  # with those of a status
    "202": {"Location": {"description": "Where the batch is.", "schema": TEXT}},
    "206": {"Content-Range": {"description": "Which bytes these are.", "schema": TEXT}},
    "401": {"WWW-Authenticate": {"description": "How to send a key.", "schema": TEXT}},
    **{
        status: {"Retry-After": {"description": "When to try again, in seconds.", "schema": NUMBER}}
        for status in ("429", "503", "504", "507")
    },
}
JSON_LENGTH = {
    "name": open_inference.HEADER_LENGTH.decode().title(),
    "in": "header",
    "description": "How many bytes of the body are the JSON object, where binary tensors follow it.",
    "schema": NUMBER,
}
ASKED_WITH: dict[str, list[dict[str, Any]]] = {  # of a path: header fields that its code reads without FastAPI
    **{
        path: [
            {
                "name": "X-Request-Timeout-Ms",
                "in": "header",
                "description": "This request's deadline.",
                "schema": NUMBER,
            },
            JSON_LENGTH,
        ]
        for path in open_inference.PATHS
    },
    "/v1/batches/{batch_id}/results": [
        {"name": "Range", "in": "header", "description": "A part of the NDJSON, `bytes=0-4095`.", "schema": TEXT}
    ],
}


def document(app: FastAPI, *, keyed: bool) -> dict[str, Any]:
    """With errors as they really are, problem+json and 400 instead of FastAPI's own 422, and with all parameters.

    Where keys are asked for, it says of each operation whether.
    """
    made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    schemas = made["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema()
    schemas["ResultRow"] = ResultRow.model_json_schema(ref_template=open_inference.REFERENCE)
    del schemas["ResultRow"]["$defs"]  # FastAPI has found these elsewhere
    schemas.update(open_inference.SCHEMAS)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    made["components"]["securitySchemes"] = KEY
    for path, operations in made["paths"].items():
        for operation in operations.values():
            if keyed and closed(path):
                operation["security"] = [{name: []} for name in KEY]
                operation["responses"].update(problems.documented(Unauthorized))
            _correct(path, operation)
    return made


def _correct(path: str, operation: Operation) -> None:
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    for error in (MalformedRequest, ServiceError):  # every request's X-Request-Id is judged, and any may fail
        responses.setdefault(str(int(error.status)), _documented(path, error))
    described = operation.get("parameters", [])
    operation["parameters"] = [*described, *_places(path, described), *ASKED_WITH.get(path, []), ASKED]
    for status, response in responses.items():
        response["headers"] = {**ANSWERED, **ANSWERED_WITH.get(str(status), {}), **response.get("headers", {})}


def _places(path: str, described: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those {places} of the path that its code reads without FastAPI."""
    names = {parameter["name"] for parameter in described if parameter["in"] == "path"}
    return [
        {"name": name, "in": "path", "required": True, "schema": TEXT}
        for name in re.findall(r"{(\w+)}", path)
        if name not in names
    ]


def _documented(path: str, error: type[ServiceError]) -> dict[str, Any]:
    inside = problems.below(path, problems.OPEN_INFERENCE)
    documented = open_inference.documented if inside else problems.documented
    return documented(error)[int(error.status)]
