"""The whole line for people's own pictures: a folder → training → ONNX → a server process → explained predictions."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from service.metadata import ModelMetadata
from tests.conftest import encode
from tests.processes import running
from tests.training.test_pictures import fill, speckled
from training.__main__ import main as convoy_train

(SMALL_MODEL,) = (Path(__file__).parents[1] / "models" / "cifar10-small").glob("[0-9]*")


@pytest.mark.parametrize(("size", "begin"), [(16, []), (40, ["--start", str(SMALL_MODEL)])])
def test_from_a_folder_of_pictures_to_a_served_prediction(tmp_path: Path, size: int, begin: list[str]) -> None:
    folder, run = fill(tmp_path / "colours", 60), tmp_path / "run"
    model, data = tmp_path / "models" / "colours" / "1", ["--data", str(folder)]
    start = ["train", "pictures", *data, "--output", str(run), "--size", str(size), "--epochs", "4"]
    assert convoy_train(start + begin) == 0
    assert convoy_train(["export", str(run), str(model), *data]) == 0
    suite = [] if begin else ["--suite", "full"]  # once is enough
    assert convoy_train(["evaluate", str(model), *data, *suite, "--record"]) == 0
    metadata, begun = ModelMetadata.read(model), ModelMetadata.read(SMALL_MODEL)
    assert (metadata.labels, metadata.input.width) == (("blue", "green", "red"), size)
    assert [start.recipe for start in metadata.provenance.teachers] == ([begun.provenance.recipe] if begin else [])
    assert ("went on from the weights of the first" in (model / "MODEL_CARD.md").read_text()) == bool(begin)
    assert metadata.provenance.dataset.startswith("colours, a folder of pictures, ")
    assert {e.split: e.accuracy for e in metadata.evaluations if e.precision == "int8"} == {"validation": 1, "test": 1}

    with (
        running(tmp_path / "models") as convoy,
        httpx2.Client(base_url=f"http://127.0.0.1:{convoy.port}") as client,
    ):
        for colour in metadata.labels:
            upload = encode(speckled(colour, 1000), "JPEG")
            answer = client.post("/v1/explain", content=upload, headers={"content-type": "image/jpeg"}).json()
            assert answer["prediction"]["label"] == colour
            assert answer["stages"][0]["shape"] == [32, size - 2, size - 2]
