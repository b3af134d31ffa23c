"""The OpenAPI document describes what the service does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.api.bodies import PredictResponse
from service.api.uploads import RAW_IMAGE, READERS


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    response = client.get("/openapi.json")
    assert response.status_code == 200
    return response.json()  # type: ignore[no-any-return]


def test_every_accepted_body_is_described(document: dict[str, Any]) -> None:
    content = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    assert set(content) == (RAW_IMAGE - {"image/jpg"}) | set(READERS)


def test_errors_are_problems_with_examples(document: dict[str, Any]) -> None:
    responses = document["paths"]["/v1/predict"]["post"]["responses"]
    assert set(responses) == {"200", "400", "404", "406", "413", "415", "422", "429", "500", "503", "504"}
    examples = {slug for code in responses if code != "200" for slug in _content(responses[code])["examples"]}
    assert examples >= {"invalid-image", "too-many-images", "overloaded", "wrong-shape", "deadline-exceeded"}
    assert "HTTPValidationError" not in json.dumps(document)


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
    assert client.get("/docs").status_code == 200


def _content(response: dict[str, Any]) -> dict[str, Any]:
    return response["content"]["application/problem+json"]  # type: ignore[no-any-return]
