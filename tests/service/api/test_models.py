"""GET /v1/models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings


def test_every_model_is_listed_with_what_serves_it(client: TestClient) -> None:
    (model,) = client.get("/v1/models").json()["models"]
    assert (model["name"], model["default"], model["active_version"]) == ("colours", True, "2")
    first, second = model["versions"]
    assert (first["version"], first["active"], second["active"]) == ("1", False, True)
    assert (second["state"], second["provider"], second["precision"]) == ("ready", "CPUExecutionProvider", "fp32")


def test_a_version_shows_its_metadata_and_card(client: TestClient) -> None:
    body = client.get("/v1/models/colours/versions/1").json()
    assert body["metadata"]["labels"] == ["red", "green", "blue"]
    assert body["metadata"]["calibration"]["temperature"] == 1
    assert body["card"] == "# colours\n"
    assert body["digest"] == f"sha256:{body['metadata']['files']['fp32']['sha256']}"


@pytest.mark.parametrize("path", ["/v1/models/shapes", "/v1/models/colours/versions/3", "/v1/models/shapes/versions/1"])
def test_what_is_not_there_is_404(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.json()["type"] == "/problems/model-not-found"


def test_a_version_that_failed_is_listed_with_its_reason(settings: Settings, models_dir: Path, tmp_path: Path) -> None:
    root = shutil.copytree(models_dir, tmp_path / "models")
    (root / "colours" / "2" / "model.onnx").write_bytes(b"")
    with TestClient(create_app(settings.model_copy(update={"models_dir": root}))) as client:
        model = client.get("/v1/models/colours").json()
    assert model["active_version"] == "1"
    assert [(v["version"], v["state"], v["detail"]) for v in model["versions"]] == [
        ("1", "ready", None),
        ("2", "failed", "model.onnx is not the file that was exported (its SHA-256 differs)"),
    ]
