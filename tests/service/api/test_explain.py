"""POST /v1/explain: what is answered, and what is refused."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from service.api.bodies import ExplainResponse
from service.app import create_app
from service.metadata import ModelMetadata
from service.settings import Settings
from tests.conftest import SIZE, encode, picture, write_colour_model

RED = encode(picture("red"))


def image_of(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))


def test_the_answer_is_what_is_documented_and_its_pictures_are_pictures(client: TestClient) -> None:
    response = client.post("/v1/explain", files=[("images", ("red.png", RED))])
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    answer = ExplainResponse.model_validate_json(response.content)
    assert answer.model_dump(exclude_unset=True) == response.json()
    assert (answer.model.name, answer.model.version) == ("colours", "2")
    assert (answer.prediction.label, answer.prediction.filename) == ("red", "red.png")
    assert np.shape(answer.occlusion.grid) == np.shape(answer.occlusion.probabilities) == (7, 7)
    assert image_of(answer.occlusion.image).size == (SIZE, SIZE)
    assert [(stage.name, stage.kind, stage.shape) for stage in answer.stages] == [
        ("conv1", "convolution", [3, 8, 8]),
        ("relu1", "activation", [3, 8, 8]),
        ("mean1", "pooling", [3, 1, 1]),
    ]
    assert [image_of(stage.image).size for stage in answer.stages] == [(17, 17), (17, 17), (3, 3)]


def test_the_prediction_is_that_of_predict(client: TestClient) -> None:
    explained, predicted = (
        client.post(f"/v1/{verb}?version=1", content=RED, headers={"content-type": "image/png"}).json()
        for verb in ("explain", "predict")
    )
    assert explained["prediction"] == predicted["predictions"][0]
    assert explained["model"] == predicted["model"]


@pytest.mark.parametrize("body", [{"images": [base64.b64encode(RED).decode()]}, {"images": []}])
def test_json_is_taken_as_for_predict(client: TestClient, body: dict[str, list[str]]) -> None:
    assert client.post("/v1/explain", json=body).status_code == (200 if body["images"] else 422)


@pytest.mark.parametrize(
    ("content", "content_type", "query", "status", "slug"),
    [
        (b"no picture", "image/png", "", 422, "invalid-image"),
        (b"", "image/png", "", 422, "empty-request"),
        (RED, "text/plain", "", 415, "unsupported-media-type"),
        (RED, "image/png", "?model=shapes", 404, "model-not-found"),
        (RED, "image/png", "?version=9", 404, "model-not-found"),
        (b'{"images": ["%%%"]}', "application/json", "", 422, "invalid-image"),
    ],
)
def test_what_is_wrong_is_a_problem(
    client: TestClient, content: bytes, content_type: str, query: str, status: int, slug: str
) -> None:
    response = client.post(f"/v1/explain{query}", content=content, headers={"content-type": content_type})
    assert (response.status_code, response.json()["type"]) == (status, f"/problems/{slug}")


def test_one_picture_is_explained_at_a_time(client: TestClient) -> None:
    response = client.post("/v1/explain", files=[("images", RED), ("images", RED)])
    assert (response.status_code, response.json()["type"]) == (413, "/problems/too-many-images")


def test_only_json_can_hold_it(client: TestClient) -> None:
    headers = {"content-type": "image/png", "accept": "application/x-npy"}
    response = client.post("/v1/explain", content=RED, headers=headers)
    assert (response.status_code, response.json()["type"]) == (406, "/problems/not-acceptable")


def test_a_version_without_stages_is_explained_without_them(settings: Settings, tmp_path: Path) -> None:
    folder = write_colour_model(tmp_path / "models" / "colours" / "1")
    ModelMetadata.read(folder).model_copy(update={"stages": None}).write(folder)
    (folder / "model.stages.onnx").unlink()
    with TestClient(create_app(settings.model_copy(update={"models_dir": tmp_path / "models"}))) as client:
        answer = client.post("/v1/explain", content=RED, headers={"content-type": "image/png"}).json()
    assert answer["stages"] == []
    assert np.shape(answer["occlusion"]["grid"]) == (7, 7)
