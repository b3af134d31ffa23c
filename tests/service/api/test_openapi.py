"""The OpenAPI document describes what the service does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.api.batch_uploads import MEDIA_TYPES, MULTIPART
from service.api.uploads import RAW_IMAGE, READERS
from service.app import create_app
from service.jobs.results import RESULTS
from service.settings import Settings
from tests.conftest import clear_environment


@pytest.fixture(scope="module")
def document(models_dir: Path) -> dict[str, Any]:
    """Made once, which takes as long as all that is asked of it."""
    with pytest.MonkeyPatch.context() as patch:
        clear_environment(patch)
        settings = Settings(models_dir=models_dir, default_model="colours", device="cpu")
    client = TestClient(create_app(settings))  # no model need be loaded for it
    response = client.get("/openapi.json", headers={"X-Request-Id": "the-first"})
    assert response.status_code == 200
    assert "the-first" not in response.text  # it is kept for others
    return response.json()  # type: ignore[no-any-return]


def test_every_accepted_body_is_described(document: dict[str, Any]) -> None:
    content = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    assert set(content) == (RAW_IMAGE - {"image/jpg"}) | set(READERS)
    content = document["paths"]["/v1/batches"]["post"]["requestBody"]["content"]
    assert set(content) == {*MEDIA_TYPES, MULTIPART}


def test_errors_are_problems_with_examples(document: dict[str, Any]) -> None:
    responses = document["paths"]["/v1/predict"]["post"]["responses"]
    assert set(responses) == {"200", "400", "403", "404", "406", "413", "415", "422", "429", "500", "503", "504"}
    examples = {slug for code in responses if code != "200" for slug in _content(responses[code])["examples"]}
    assert examples >= {"invalid-image", "too-many-images", "overloaded", "wrong-shape", "deadline-exceeded"}
    assert "HTTPValidationError" not in json.dumps(document)


def test_header_fields_are_described(document: dict[str, Any]) -> None:
    paths = document["paths"]
    for operations in paths.values():
        for operation in operations.values():
            assert all("X-Request-Id" in response["headers"] for response in operation["responses"].values())
            assert headers(operation) >= {"X-Request-Id"}
    for status in ("429", "503", "504"):
        assert "Retry-After" in paths["/v1/predict"]["post"]["responses"][status]["headers"]
    assert "Location" in paths["/v1/batches"]["post"]["responses"]["202"]["headers"]
    for path, names in {
        "/v1/batches/{batch_id}/results": {"Range", "X-Request-Id"},
        "/v2/models/{model}/infer": {"X-Request-Id", "X-Request-Timeout-Ms", "Inference-Header-Content-Length"},
        "/livez": {"X-Request-Id"},
    }.items():
        (operation,) = paths[path].values()
        assert headers(operation) == names


@pytest.mark.parametrize(("given", "fits"), [("a-b/1:2=3+4_5.6", True), ("a b", False), ("x" * 129, False)])
def test_the_pattern_of_a_requests_id_is_the_one_it_is_held_against(
    client: TestClient, document: dict[str, Any], given: str, fits: bool
) -> None:
    parameters = document["paths"]["/livez"]["get"]["parameters"]
    (pattern,) = (each["schema"]["pattern"] for each in parameters if each["name"] == "X-Request-Id")
    assert bool(re.search(pattern, given)) is fits
    assert client.get("/livez", headers={"X-Request-Id": given}).status_code == (200 if fits else 400)


def test_every_place_in_a_path_is_described_once(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            described = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
            assert sorted(described) == sorted(re.findall(r"{(\w+)}", path))


def test_nothing_in_a_query_is_promised_below_v2(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        if path.startswith("/v2"):
            kinds = [each["in"] for operation in operations.values() for each in operation["parameters"]]
            assert "query" not in kinds, path


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/v1/batches", "?limit=0"),
        ("GET", "/v1/batches/{batch_id}/results", "?follow=maybe"),
        ("POST", "/v2/repository/index", ""),
        ("POST", "/v2/repository/models/{model}/load", ""),
        ("GET", "/v1/models", "?limit=5"),
        ("GET", "/v1/models/{name}", "?version=2"),
        ("GET", "/v1/batches/{batch_id}", "?format=csv"),
        ("GET", "/v2", "?model=colours"),
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


def test_so_does_everything_else_for_the_sake_of_its_id(client: TestClient, document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert "400" in operation["responses"], path
            answer = client.request(method, path, headers={"X-Request-Id": "not an id"})
            assert answer.status_code == 400, path
            (kind,) = operation["responses"]["400"]["content"]
            assert answer.headers["content-type"] == kind


def test_and_everything_says_what_it_answers_where_the_service_fails(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            failed, malformed = (operation["responses"].get(status, {"content": {}}) for status in ("500", "400"))
            assert _schemas(failed) == _schemas(malformed), path


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in schemas


@pytest.mark.parametrize("name", ["PredictResponse", "ExplainResponse", "ModelList", "BatchStatus", "ResultRow"])
def test_what_is_answered_has_an_example(document: dict[str, Any], name: str) -> None:
    assert document["components"]["schemas"][name]["examples"]


def test_every_format_of_results_is_described_and_every_text_has_an_example(document: dict[str, Any]) -> None:
    paths = document["paths"]
    for status in ("200", "206"):
        content = paths["/v1/batches/{batch_id}/results"]["get"]["responses"][status]["content"]
        for media_type, described in content.items():
            assert described["schema"]["description"]
            assert "example" in described or media_type == RESULTS["parquet"].media_type
    content = paths["/v1/batches/{batch_id}/events"]["get"]["responses"]["200"]["content"]
    assert content["text/event-stream"]["example"].startswith("data: {")


def test_the_documentation_page_is_there(client: TestClient) -> None:
    answer = client.get("/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "url: 'openapi.json'" in answer.text  # relative: it works behind a prefix, too
    assert '<a href="openapi.json">' in answer.text  # what is left without the internet


def headers(operation: dict[str, Any]) -> set[str]:
    """The names of those that it describes as asked for."""
    return {each["name"] for each in operation["parameters"] if each["in"] == "header"}


def _content(response: dict[str, Any]) -> dict[str, Any]:
    return response["content"]["application/problem+json"]  # type: ignore[no-any-return]


def _schemas(response: dict[str, Any]) -> dict[str, Any]:
    """Those of its bodies, by their kind."""
    return {kind: described["schema"] for kind, described in response["content"].items()}
