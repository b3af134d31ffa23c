"""GET /metrics: what it shows is what happened, no more and no less."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from service.api import metrics as metrics_route
from service.counters import Counters
from service.metrics import MEDIA_TYPE
from tests.conftest import COLOURS, SIZE, encode, picture
from tests.service.api.test_predict import NPY, npy, post


def scrape(client: TestClient) -> Mapping[tuple[str, ...], float]:
    """Name and label values → value."""
    response = client.get("/metrics")
    assert response.headers["content-type"] == MEDIA_TYPE
    families = text_string_to_metric_families(response.text)
    return {(sample.name, *sample.labels.values()): sample.value for f in families for sample in f.samples}


def test_requests_images_and_predictions_are_counted_exactly(client: TestClient) -> None:
    before = scrape(client)
    red, files = encode(picture("red")), [("images", ("a", encode(picture("blue")))), ("images", ("b", b"text"))]
    for _ in range(3):
        assert post(client, red, "image/png").status_code == 200
    assert client.post("/v1/predict", files=files).status_code == 200
    assert post(client, npy(np.zeros((5, SIZE, SIZE, 3), np.uint8)), NPY, params={"version": "1"}).status_code == 200
    assert post(client, b"text", "image/png").status_code == 422
    assert post(client, red, "text/plain").status_code == 415
    assert client.get("/nothing").status_code == 404
    assert client.get("/openapi.json").status_code == client.head("/openapi.json").status_code == 200
    assert client.request("BREW", "/v1/predict").status_code == 405
    after = scrape(client)

    def rise(*key: str) -> float:
        return after.get(key, 0) - before.get(key, 0)

    assert rise("convoy_requests_total", "/v1/predict", "POST", "200") == 5
    assert rise("convoy_requests_total", "/v1/predict", "POST", "422") == 1
    assert rise("convoy_requests_total", "/v1/predict", "POST", "415") == 1
    assert rise("convoy_requests_total", "/v1/predict", "other", "405") == 1
    assert rise("convoy_requests_total", "other", "GET", "404") == 1
    assert rise("convoy_requests_total", "other", "GET", "200") == 0
    assert rise("convoy_requests_total", "/openapi.json", "GET", "200") == 1
    assert rise("convoy_request_seconds_count", "/v1/predict") == 8
    assert rise("convoy_images_total", "colours", "2", "predicted") == 4
    assert rise("convoy_images_total", "colours", "1", "predicted") == 5
    assert rise("convoy_images_total", "colours", "2", "invalid-image") == 2
    assert rise("convoy_predictions_total", "colours", "blue") == 1
    assert sum(rise("convoy_predictions_total", "colours", colour) for colour in COLOURS) == 9
    assert rise("convoy_prediction_probability_count", "colours") == 9
    assert rise("convoy_batch_size_sum", "colours") == 9
    assert rise("convoy_batch_closed_total", "idle") == 5
    assert after["convoy_queue_images", "colours"] == 0
    for stage in ("decode", "preprocess"):
        assert rise("convoy_stage_seconds_count", stage) == 5  # arrays of the right size need neither
    for stage in ("queue", "infer", "respond"):
        assert rise("convoy_stage_seconds_count", stage) == 5
    digests = {key[3] for key in after if key[0] == "convoy_model_info"}
    assert len(digests) == 2
    assert all(digest.startswith("sha256:") for digest in digests)


def test_names_that_clients_make_up_become_no_labels(client: TestClient) -> None:
    for i in range(5):
        client.request(f"VERB{i}", f"/path{i}")
    assert not any("VERB" in value or "path" in value for key in scrape(client) for value in key)


def test_nothing_else_waits_while_counts_are_looked_through(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of many processes take their time; and threads of asyncio's own may all wait for the disk of batches."""
    looked: list[str] = []
    counts: Counters = client.app.state.metrics._counters  # type: ignore[attr-defined]
    totals = counts.totals

    def look(prefix: str = "") -> dict[str, float]:
        looked.append(threading.current_thread().name.partition("_")[0])
        return totals(prefix)

    monkeypatch.setattr(counts, "totals", look)
    assert client.get("/metrics").status_code == client.get("/v2/models/stats").status_code == 200
    assert looked == ["count", "count"]


def test_while_the_database_does_not_answer_the_last_counts_are_shown_and_one_look_waits(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, looks = threading.Event(), 0

    def stalled() -> dict[str, int]:
        nonlocal looks
        looks += 1
        release.wait(20)
        return {"queued": 7}

    assert scrape(client)["convoy_batches", "queued"] == 0
    monkeypatch.setattr(client.app.state.store, "counts", stalled)  # type: ignore[attr-defined]
    with monkeypatch.context() as impatient:
        impatient.setattr(metrics_route, "PATIENCE_S", 0.01)
        assert [scrape(client)["convoy_batches", "queued"] for _ in range(3)] == [0, 0, 0]
    assert looks == 1
    release.set()
    monkeypatch.setattr(metrics_route, "PATIENCE_S", math.inf)
    assert scrape(client)["convoy_batches", "queued"] == 7
