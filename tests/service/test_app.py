"""The application behind a path prefix, where a server such as Ray Serve leaves it in the path (ASGI's `root_path`)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.conftest import encode, picture

KEY = {"Authorization": "Bearer a-key-of-the-shop"}
IMAGE = encode(picture("red"))
PNG = {"Content-Type": "image/png"}


@pytest.fixture
def behind(settings: Settings, tmp_path: Path) -> Iterator[TestClient]:
    (tmp_path / "keys").write_text("a-key-of-the-shop\n")
    app = create_app(settings.model_copy(update={"api_keys_file": tmp_path / "keys"}))
    with TestClient(app, root_path="/convoy") as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/models", "/v1/batches", "/v1/nothing", "/v2", "/v2/models/colours"])
def test_keys_protect_the_same_paths(behind: TestClient, path: str) -> None:
    assert behind.get(f"/convoy{path}").status_code == 401
    assert behind.get(f"/convoy{path}", headers=KEY).status_code == (404 if path.endswith("nothing") else 200)
    assert behind.get(path).status_code == 401


@pytest.mark.parametrize("path", ["/", "/livez", "/metrics", "/openapi.json", "/v2/health/live"])
def test_what_is_open_stays_so(behind: TestClient, path: str) -> None:
    assert behind.get(f"/convoy{path}").status_code == 200


def test_a_direct_route_is_found_asks_for_a_key_and_counts_once(behind: TestClient) -> None:
    assert behind.post("/convoy/v1/predict", content=IMAGE, headers=PNG).status_code == 401
    answer = behind.post("/convoy/v1/predict", content=IMAGE, headers={**PNG, **KEY, "X-Request-Id": "mine"})
    assert (answer.status_code, answer.headers.get_list("x-request-id")) == (200, ["mine"])
    counted = 'convoy_requests_total{route="/v1/predict",method="POST",status="200"} 1\n'
    assert counted in behind.get("/convoy/metrics").text


def test_the_open_inference_protocol_answers_and_says_errors_in_its_own_form(behind: TestClient) -> None:
    data = [base64.b64encode(IMAGE).decode()]
    asked = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": data}]}
    assert behind.post("/convoy/v2/models/colours/infer", json=asked, headers=KEY).status_code == 200
    assert set(behind.get("/convoy/v2/models/none", headers=KEY).json()) == {"error"}


@pytest.mark.parametrize("path", ["/v1/models", "/v1/batches", "/v2/models/colours", "/v1/predict"])
def test_the_prefix_is_taken_away_once(behind: TestClient, path: str) -> None:
    for method in ("GET", "POST"):
        assert behind.request(method, f"/convoy/convoy{path}").status_code == 404


def test_a_prefix_may_be_called_as_a_path_is(settings: Settings) -> None:
    with TestClient(create_app(settings), root_path="/v1") as client:
        assert client.get("/v1/v1/models").status_code == 200


def test_the_document_says_where_it_is(behind: TestClient) -> None:
    assert behind.get("/convoy/openapi.json").json()["servers"] == [{"url": "/convoy"}]


def test_a_path_that_only_begins_like_the_prefix_is_another_one(behind: TestClient) -> None:
    assert behind.get("/convoys/livez").status_code == 404


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/explain", "/v2/models/colours/infer"])
def test_a_path_with_a_line_break_behind_it_is_no_direct_route(behind: TestClient, path: str) -> None:
    answer = behind.post(f"{path}%0A", content=IMAGE, headers={**PNG, **KEY})
    assert answer.status_code == 404
    assert "There is nothing at this path" in answer.text
