"""Names in a query that nobody knows."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from service.api.queries import check_names
from service.errors import MalformedRequest
from tests.conftest import encode, picture


def test_names_that_are_known_pass() -> None:
    check_names([], [])
    check_names(["b", "a"], ["a", "b"])
    with pytest.raises(MalformedRequest, match=r"^query c: it is not known here; known are a, b\.$"):
        check_names(["a", "c"], ["a", "b"])
    with pytest.raises(MalformedRequest, match=r"^query c: it is not known here; leave the query out\.$"):
        check_names(["c"], [])


@pytest.mark.parametrize(
    ("method", "path", "known"),
    [
        ("POST", "/v1/predict?topk=3", "known are model, version, top_k, coverage"),
        ("POST", "/v1/explain?top_k=3", "known are model, version"),
        ("POST", "/v1/batches?coverage=0.95", "known are model, version, top_k"),
        ("GET", "/v1/batches?page=2", "known are limit, after"),
        ("GET", "/v1/batches/abc/results?fmt=csv", "known are format, follow"),
        ("GET", "/v1/models?name=x", "leave the query out"),
    ],
)
def test_a_misspelt_name_is_refused(client: TestClient, method: str, path: str, known: str) -> None:
    image = encode(picture("red")) if method == "POST" else None
    answer = client.request(method, path, content=image, headers={"content-type": "image/png"})
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/malformed-request")
    assert known in answer.json()["detail"]


def test_names_that_are_declared_are_taken(client: TestClient) -> None:
    assert client.get("/v1/batches?limit=3").status_code == 200
