"""/v1/models: what serves, and who may change it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.conftest import encode, picture, write_colour_model

KEY, ADMIN = "a-key-of-the-shop", "a-key-of-the-operator"
VERBS = ["load", "activate", "unload"]


@pytest.fixture
def root(models_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models_dir, tmp_path / "models"))


@pytest.fixture
def own(settings: Settings, root: Path, tmp_path: Path) -> Settings:
    """Settings for a repository that the test may change, with a key for that."""
    (tmp_path / "admins").write_text(f"{ADMIN}\n")
    return settings.model_copy(update={"models_dir": root, "admin_keys_file": tmp_path / "admins"})


@pytest.fixture
def administered(own: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(own), headers={"Authorization": f"Bearer {ADMIN}"}) as client:
        yield client


def answering(client: TestClient) -> str:
    response = client.post("/v1/predict", content=encode(picture("red")), headers={"content-type": "image/png"})
    return str(response.json()["model"]["version"])


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


def test_versions_are_loaded_activated_and_unloaded(administered: TestClient, root: Path) -> None:
    write_colour_model(root / "colours" / "3", scale=0.03)

    def states(verb: str, version: str) -> list[tuple[str, str, bool]]:
        response = administered.post(f"/v1/models/colours/versions/{version}/{verb}")
        assert response.status_code == 200, response.text
        assert response.json() == administered.get("/v1/models/colours").json()
        return [(v["version"], v["state"], v["active"]) for v in response.json()["versions"]]

    ready = "ready"
    assert states("load", "3") == [("1", ready, False), ("2", ready, True), ("3", ready, False)]
    assert answering(administered) == "2"
    assert states("activate", "3") == [("1", ready, False), ("2", ready, False), ("3", ready, True)]
    assert answering(administered) == "3"
    assert states("unload", "2") == [("1", ready, False), ("2", "unloaded", False), ("3", ready, True)]
    assert states("activate", "1") == [("1", ready, True), ("2", "unloaded", False), ("3", ready, False)]
    assert answering(administered) == "1"


def test_a_model_of_which_no_version_is_wanted_is_still_listed(administered: TestClient, root: Path) -> None:
    write_colour_model(root / "shades" / "1")
    assert administered.post("/v1/models/shades/versions/1/load").status_code == 200
    model = administered.post("/v1/models/shades/versions/1/unload").json()
    assert (model["active_version"], model["versions"][0]["state"]) == (None, "unloaded")
    assert [each["name"] for each in administered.get("/v1/models").json()["models"]] == ["colours", "shades"]


@pytest.mark.parametrize(
    ("path", "status", "slug"),
    [
        ("colours/versions/9/activate", 404, "model-not-found"),
        ("%2e%2e/versions/1/activate", 404, "model-not-found"),
        ("colours/versions/2/unload", 409, "conflict"),
        ("colours/versions/3/activate", 409, "conflict"),
    ],
)
def test_what_can_not_be_done_is_a_problem_and_changes_nothing(
    administered: TestClient, root: Path, path: str, status: int, slug: str
) -> None:
    (write_colour_model(root / "colours" / "3") / "model.onnx").write_bytes(b"broken")
    response = administered.post(f"/v1/models/{path}")
    assert (response.status_code, response.json()["type"]) == (status, f"/problems/{slug}")
    assert str(root) not in response.text
    assert answering(administered) == "2"


@pytest.mark.parametrize("verb", VERBS)
def test_without_admin_keys_nobody_has_the_right(client: TestClient, verb: str) -> None:
    for headers in ({}, {"Authorization": f"Bearer {ADMIN}"}):
        response = client.post(f"/v1/models/colours/versions/1/{verb}", headers=headers)
        assert (response.status_code, response.json()["type"]) == (403, "/problems/forbidden")


@pytest.mark.parametrize("verb", VERBS)
def test_the_right_is_that_of_its_keys_alone(own: Settings, tmp_path: Path, verb: str) -> None:
    (tmp_path / "keys").write_text(f"{KEY}\n")
    path = f"/v1/models/colours/versions/1/{verb}"
    with TestClient(create_app(own)) as client:  # anybody may ask for predictions
        assert client.post(path).status_code == 401
        assert client.post(path, headers={"X-API-Key": KEY}).status_code == 401
        assert client.get("/v1/models").status_code == 200
    with TestClient(create_app(own.model_copy(update={"api_keys_file": tmp_path / "keys"}))) as client:
        assert client.post(path).status_code == 401
        response = client.post(path, headers={"X-API-Key": KEY})
        assert (response.status_code, response.json()["type"]) == (403, "/problems/forbidden")
        assert client.get("/v1/models", headers={"X-API-Key": ADMIN}).status_code == 200
        assert client.post(path, headers={"X-API-Key": ADMIN}).status_code == 200
