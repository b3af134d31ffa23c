"""Names in a query that are slips, and those that are somebody else's."""

from __future__ import annotations

from difflib import get_close_matches

import pytest
from starlette.testclient import TestClient

from service.api import queries
from service.api.queries import ANYWHERE, MOST_NAMES, check_names
from service.errors import MalformedRequest
from tests.conftest import encode, picture

PREDICT = ("model", "version", "top_k", "coverage")


def test_names_that_are_known_pass() -> None:
    check_names([], [])
    check_names(["coverage", "model"], PREDICT)


@pytest.mark.parametrize("name", ["topk", "top-k", "Top_K", "top", "top_n"])
def test_a_slip_is_refused_with_what_may_be_meant(name: str) -> None:
    told = rf"^query {name}: it is not known here \(is top_k meant\?\); known are model, version, top_k, coverage\.$"
    with pytest.raises(MalformedRequest, match=told):
        check_names(["model", name], PREDICT)


def test_so_is_what_is_known_elsewhere() -> None:
    with pytest.raises(MalformedRequest, match=r"^query coverage: it is not known here; known are model, version\.$"):
        check_names(["coverage"], ["model", "version"])
    with pytest.raises(MalformedRequest, match=r"^query Top-K: it is not known here; leave it out\.$"):
        check_names(["Top-K"], [])


@pytest.mark.parametrize(
    "name",
    [
        *("_", "", "t", "v", "cb", "utm_source", "utm_medium", "utm_campaign", "gclid", "api_key", "key", "token"),
        *("api-version", "session", "lang", "trace", "timestamp", "x" * 10_000),
    ],
)
def test_what_others_add_is_left_alone(name: str) -> None:
    for known in (PREDICT, ("model", "version"), ("limit", "after"), ("format", "follow"), ()):
        check_names([name], known)


def test_of_many_names_only_some_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def compare(name: str, known: tuple[str, ...], most: int, alike: float) -> list[str]:
        compared.append(name)
        return get_close_matches(name, known, most, alike)

    monkeypatch.setattr(queries, "get_close_matches", compare)
    check_names([f"x{number}" for number in range(10_000)], PREDICT)
    assert len(compared) == MOST_NAMES


def test_all_that_is_known_at_some_route_is_known_to_be(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"].values()
    declared = [place for path in paths for operation in path.values() for place in operation.get("parameters", [])]
    assert {place["name"] for place in declared if place["in"] == "query"} == ANYWHERE


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        ("POST", "/v1/predict?topk=3", "(is top_k meant?); known are model, version, top_k, coverage"),
        ("POST", "/v1/explain?top_k=3", "known are model, version"),
        ("POST", "/v1/batches?limit=3", "known are model, version, top_k, coverage"),
        ("GET", "/v1/batches?limits=2", "(is limit meant?); known are limit, after"),
        ("GET", "/v1/batches/abc/results?fmt=csv", "(is format meant?); known are format, follow"),
        ("GET", "/v1/models?version=2", "leave it out"),
        ("POST", "/v2/models/colours/infer?version=77", "query version: it is not known here; leave it out."),
        ("POST", "/v2/models/colours/versions/1/infer?top_k=3", "leave it out"),
        ("GET", "/v2/models/colours?version=1", "leave it out"),
        ("GET", "/v2/models/stats?model=colours", "leave it out"),
        ("GET", "/v2/models/colours/ready?version=9", "leave it out"),
    ],
)
def test_every_route_refuses_slips(client: TestClient, method: str, path: str, told: str) -> None:
    image = encode(picture("red")) if method == "POST" else None
    answer = client.request(method, path, content=image, headers={"content-type": "image/png"})
    assert answer.status_code == 400
    if path.startswith("/v2"):
        assert told in answer.json()["error"]
        return
    assert answer.json()["type"] == "/problems/malformed-request"
    assert told in answer.json()["detail"]


def test_no_route_refuses_what_others_add(client: TestClient) -> None:
    assert client.get("/v1/batches?limit=3&_=1").status_code == 200
    assert client.get("/v2/models/colours?_=1").status_code == 200
    image, headers = encode(picture("red")), {"content-type": "image/png"}
    assert client.post("/v1/predict?utm_source=x&api_key=y", content=image, headers=headers).status_code == 200
