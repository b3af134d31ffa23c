"""GET /livez and /readyz."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient


def test_a_started_service_is_live_and_ready(client: TestClient) -> None:
    assert client.get("/livez").json() == {"status": "live"}
    assert client.get("/readyz").json() == {"status": "ready", "provider": "CPUExecutionProvider", "precision": "fp32"}


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz"])
def test_who_asks_for_the_head_alone_gets_that(client: TestClient, path: str) -> None:
    whole, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == whole.headers[name]


def test_a_model_that_fails_makes_it_unready_but_not_dead(client: TestClient) -> None:
    models = client.app.state.served  # type: ignore[attr-defined]
    models._unwell["colours"] = "The model colours fails: the device is gone."
    response = client.get("/readyz")
    assert (response.status_code, response.json()["type"]) == (503, "/problems/not-ready")
    assert "the device is gone" in response.json()["detail"]
    assert client.head("/readyz").status_code == 503
    assert response.headers["retry-after"] == "1"
    assert client.get("/livez").status_code == 200


def test_a_draining_process_is_unready(client: TestClient) -> None:
    client.app.state.served.draining = True  # type: ignore[attr-defined]
    response = client.get("/readyz")
    assert (response.status_code, response.json()["type"]) == (503, "/problems/draining")
