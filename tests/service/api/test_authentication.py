"""Keys: who has one is answered, who has none learns that one is needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.conftest import encode, picture

KEY, OTHER = "a-key-of-the-shop", "a-key-of-the-office"
IMAGE = encode(picture("red"))
CLOSED = ["/v1/models", "/v1/batches", "/v1/nothing", "/v2", "/v2/models/colours"]
OPEN = [
    "/",
    "/web/page.js",
    "/livez",
    "/readyz",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/v2/health/live",
    "/v2/health/ready",
]


@pytest.fixture
def keyed(settings: Settings, tmp_path: Path) -> Iterator[TestClient]:
    (tmp_path / "keys").write_text(f"{KEY}\n{OTHER}\n")
    with TestClient(create_app(settings.model_copy(update={"api_keys_file": tmp_path / "keys"}))) as client:
        yield client


@pytest.mark.parametrize(
    "headers", [{"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer  {OTHER}"}, {"X-API-Key": KEY}]
)
def test_a_known_key_opens_every_route(keyed: TestClient, headers: dict[str, str]) -> None:
    assert keyed.post("/v1/predict", content=IMAGE, headers={"Content-Type": "image/png", **headers}).status_code == 200
    for path in CLOSED:
        assert keyed.get(path, headers=headers).status_code == (404 if path.endswith("nothing") else 200)


def test_a_line_break_behind_a_path_opens_nothing(keyed: TestClient) -> None:
    assert [keyed.get(f"{path}%0A").status_code for path in CLOSED] == [401] * len(CLOSED)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer a-key-of-nobodys"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Authorization": "Bearer"},
        {"X-API-Key": ""},
        {"X-API-Key": "a-key-of-nobodys", "Authorization": f"Bearer {KEY}"},
    ],
)
def test_without_one_nothing_is_told_but_that(keyed: TestClient, headers: dict[str, str]) -> None:
    response = keyed.post("/v1/predict", content=IMAGE, headers={"Content-Type": "image/png", **headers})
    assert (response.status_code, response.json()["type"]) == (401, "/problems/unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert KEY not in response.text
    for path in CLOSED:
        refused = keyed.get(path, headers=headers)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert ("error" in refused.json()) == path.startswith("/v2")


@pytest.mark.parametrize("path", OPEN)
def test_probes_and_documentation_need_none(keyed: TestClient, path: str) -> None:
    assert keyed.get(path).status_code == 200


def test_what_is_refused_is_counted(keyed: TestClient) -> None:
    keyed.post("/v1/predict", content=IMAGE)
    keyed.get("/v1/models")
    metrics = keyed.get("/metrics").text
    assert 'convoy_requests_total{route="/v1/predict",method="POST",status="401"} 1' in metrics
    assert 'convoy_requests_total{route="other",method="GET",status="401"} 1' in metrics


def test_the_document_says_where_a_key_is_needed(keyed: TestClient, client: TestClient) -> None:
    paths = keyed.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for operation in operations.values():
            assert ("security" in operation) == (path not in OPEN)
            assert ("401" in operation["responses"]) == (path not in OPEN)
    without = client.get("/openapi.json").json()["paths"]
    for_admins = {path for path, operations in without.items() for each in operations.values() if "security" in each}
    assert {path.rpartition("/")[2] for path in for_admins} == {"load", "activate", "unload"}


def test_a_body_is_not_read_for_somebody_unknown(keyed: TestClient) -> None:
    assert keyed.post("/v1/predict", content=b"x" * (65 << 20)).status_code == 401
