"""The OpenAPI document describes what the service does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.api.batch_uploads import MEDIA_TYPES, MULTIPART
from service.api.bodies import PredictResponse
from service.api.uploads import RAW_IMAGE, READERS
from service.app import create_app
from service.settings import Settings
from tests.conftest import clear_environment


@pytest.fixture(scope="module")
def document(models_dir: Path) -> dict[str, Any]:
    """Made once, which takes as long as all that is asked of it."""
    with pytest.MonkeyPatch.context() as patch:
        clear_environment(patch)
        settings = Settings(models_dir=models_dir, default_model="colours", device="cpu")
    response = TestClient(create_app(settings)).get("/openapi.json")  # no model need be loaded for it
    assert response.status_code == 200
    return response.json()  # type: ignore[no-any-return]


def test_every_accepted_body_is_described(document: dict[str, Any]) -> None:
    content = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    assert set(content) == (RAW_IMAGE - {"image/jpg"}) | set(READERS)
    content = document["paths"]["/v1/batches"]["post"]["requestBody"]["content"]
    assert set(content) == {*MEDIA_TYPES, MULTIPART}


def test_errors_are_problems_with_examples(document: dict[str, Any]) -> None:
    responses = document["paths"]["/v1/predict"]["post"]["responses"]
    assert set(responses) == {"200", "400", "404", "406", "413", "415", "422", "429", "500", "503", "504"}
    examples = {slug for code in responses if code != "200" for slug in _content(responses[code])["examples"]}
    assert examples >= {"invalid-image", "too-many-images", "overloaded", "wrong-shape", "deadline-exceeded"}
    assert "HTTPValidationError" not in json.dumps(document)


def test_header_fields_are_described(document: dict[str, Any]) -> None:
    paths = document["paths"]
    for operations in paths.values():
        for operation in operations.values():
            assert all("X-Request-Id" in response["headers"] for response in operation["responses"].values())
    for status in ("429", "503", "504"):
        assert "Retry-After" in paths["/v1/predict"]["post"]["responses"][status]["headers"]
    assert "Location" in paths["/v1/batches"]["post"]["responses"]["202"]["headers"]
    for path, names in {
        "/v1/batches/{batch_id}/results": {"Range"},
        "/v2/models/{model}/infer": {"X-Request-Timeout-Ms", "Inference-Header-Content-Length"},
    }.items():
        (operation,) = paths[path].values()
        assert {each["name"] for each in operation["parameters"] if each["in"] == "header"} == names


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/v1/batches", "?limit=0"),
        ("GET", "/v1/batches/{batch_id}/results", "?follow=maybe"),
        ("POST", "/v2/repository/index", ""),
        ("POST", "/v2/repository/models/{model}/load", ""),
    ],
)
def test_what_can_be_malformed_says_so(
    client: TestClient, document: dict[str, Any], method: str, path: str, query: str
) -> None:
    responses = document["paths"][path][method.lower()]["responses"]
    assert "400" in responses
    assert ("Failure" if path.startswith("/v2") else "Problem") in str(responses["400"])
    if "{model}" not in path:  # that one asks for a key first
        assert client.request(method, path + query, content=b"x").status_code == 400


def test_nothing_else_does(document: dict[str, Any]) -> None:
    assert "400" not in document["paths"]["/v1/models/{name}"]["get"]["responses"]


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in schemas


def test_the_success_response_has_an_example(document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"]["PredictResponse"]
    assert schema["examples"][0]["predictions"][0]["label"] == "cat"
    PredictResponse.model_validate(schema["examples"][0])


def test_the_documentation_page_is_there(client: TestClient) -> None:
    answer = client.get("/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "url: 'openapi.json'" in answer.text  # relative: it works behind a prefix, too
    assert '<a href="openapi.json">' in answer.text  # what is left without the internet


def _content(response: dict[str, Any]) -> dict[str, Any]:
    return response["content"]["application/problem+json"]  # type: ignore[no-any-return]
