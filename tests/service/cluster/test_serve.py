"""The service on Ray Serve, deployed from the configuration file that users deploy it from."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from service.app import create_app
from service.settings import Settings
from tests.cluster import LocalCluster, serving
from tests.conftest import COLOURS, encode, picture
from tests.service.jobs.packing import as_zip


@pytest.fixture(scope="module")
def client(
    cluster: LocalCluster, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx2.Client]:
    """Of two replicas behind one proxy."""
    folder = tmp_path_factory.mktemp("serve")
    with (
        serving(cluster, folder, models_dir, "colours", min_replicas=2) as url,
        httpx2.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def test_it_answers_images_of_every_kind_of_body(client: httpx2.Client) -> None:
    parts = [("images", (f"{colour}.png", encode(picture(colour)))) for colour in COLOURS]
    predictions = client.post("/v1/predict", files=parts).json()["predictions"]
    assert [(each["filename"], each["label"]) for each in predictions] == [(f"{c}.png", c) for c in COLOURS]
    headers = {"content-type": "image/png", "x-request-id": "mine"}
    answer = client.post("/v1/predict?top_k=1", content=encode(picture("blue")), headers=headers)
    assert [each["label"] for each in answer.json()["predictions"]] == ["blue"]
    assert answer.headers["x-request-id"].startswith("mine")


def test_errors_are_problems(client: httpx2.Client) -> None:
    answer = client.post("/v1/predict", content=b"no image", headers={"content-type": "image/png"})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["type"] == "/problems/invalid-image"
    assert client.get("/nothing").json()["type"] == "/problems/not-found"


def test_every_route_of_the_service_is_there(client: httpx2.Client, settings: Settings) -> None:
    assert client.get("/openapi.json").json() == json.loads(json.dumps(create_app(settings).openapi()))
    for path in ("/livez", "/readyz", "/metrics", "/docs", "/v1/models", "/v1/models/colours", "/v1/batches"):
        assert client.get(path).status_code == 200, path


def test_a_batch_is_scored_by_whichever_replica_is_free(client: httpx2.Client) -> None:
    archive = as_zip((f"{colour}.png", encode(picture(colour))) for colour in COLOURS)
    accepted = client.post("/v1/batches", content=archive, headers={"content-type": "application/zip"})
    assert accepted.status_code == 202
    path = accepted.headers["location"]
    rows = client.get(f"{path}/results?follow=true").text.splitlines()
    assert [json.loads(row)["label"] for row in rows] == list(COLOURS)


def test_settings_that_make_no_sense_are_told_before_a_replica_starts() -> None:
    words = [sys.executable, "-c", "from service.cluster.serve import application; application({'device': 'tpu'})"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "ValueError: --device" in done.stderr
