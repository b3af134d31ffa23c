"""Networks from elsewhere → versions that are served, or one sentence and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from starlette.testclient import TestClient

from service.app import create_app
from service.metadata import ModelMetadata
from service.settings import Settings
from tests.conftest import encode
from tests.training.foreign import LABELS, SIZE, by_hand, compared, frozen, network, softmax
from tests.training.test_pictures import fill, speckled
from training.__main__ import main
from training.errors import ExportError
from training.foreign_graph import Normalisation
from training.imported import Source, import_network, read_labels


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS) + "\n")
    return path


@pytest.mark.parametrize("end", [[], softmax(), by_hand()], ids=["logits", "softmax", "by hand"])
def test_an_imported_network_is_served(tmp_path: Path, labels: Path, end: list[object]) -> None:
    if end and len(end) == 3:
        end[1] = helper.make_node("ReduceSum", ["powers", "classes"], ["sum"], keepdims=1)
        end.insert(0, helper.make_node("Constant", [], ["classes"], value_ints=[1]))
    file = network(tmp_path / "net.onnx", end=end)  # type: ignore[arg-type]
    target = tmp_path / "models" / "colours" / "1"
    assert main(["import", str(file), str(target), "--labels", str(labels), "--description", "Names colours."]) == 0
    settings = Settings(models_dir=tmp_path / "models", default_model="colours", device="cpu")
    with TestClient(create_app(settings)) as client:
        for colour in LABELS:
            answer = client.post("/v1/predict", files={"images": encode(speckled(colour, 7))}).json()
            assert answer["predictions"][0]["label"] == colour
        explained = client.post("/v1/explain", files={"images": encode(speckled("red", 7))})
        assert explained.status_code == 200
    card = (target / "MODEL_CARD.md").read_text()
    assert "Names colours." in card
    assert "Not here: imported from net.onnx." in card
    assert "fitted on nothing" in card
    assert "Not measured yet: `convoy-train evaluate models/colours/1 --record`" in card
    assert ModelMetadata.read(target).calibration.temperature == 1


def test_pictures_make_it_honest_and_measure_it_whatever_their_order(
    tmp_path: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its classes are red, green, blue; the folders come as blue, green, red."""
    pictures = fill(tmp_path / "pictures", 30)
    file, target = network(tmp_path / "net.onnx"), tmp_path / "models" / "colours" / "1"
    assert main(["import", str(file), str(target), "--labels", str(labels), "--data", str(pictures)]) == 0
    assert "accuracy       100.00%" in capsys.readouterr().out
    metadata = ModelMetadata.read(target)
    assert metadata.calibration.temperature < 1  # always right, and it was not sure
    assert metadata.calibration.fitted_on.endswith("pictures of pictures, a folder of pictures")
    assert set(metadata.calibration.thresholds["fp32"]) == {"0.9", "0.95", "0.99"}
    assert main(["evaluate", str(target), "--data", str(pictures), "--record"]) == 0
    (validation, test) = ModelMetadata.read(target).evaluations
    assert (validation.split, test.split, test.accuracy) == ("validation", "test", 1)


def test_what_it_has_no_label_for_is_told(tmp_path: Path, labels: Path) -> None:
    file, target = network(tmp_path / "net.onnx"), tmp_path / "models" / "colours" / "1"
    with pytest.raises(ExportError, match="has 3 outputs, and there are 2 labels"):
        import_network(Source(file, ("a", "b"), Normalisation()), target)
    pictures = fill(tmp_path / "pictures", 30, names=("red", "violet"))
    assert main(["import", str(file), str(target), "--labels", str(labels), "--data", str(pictures)]) == 1
    assert not target.parent.exists() or not list(target.parent.iterdir())


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (frozen(), "does not run with 2 images at a time; export it again with a batch axis"),
        (compared(), "differ from those of one by up to .*must not depend on others"),
    ],
)
def test_a_network_for_one_image_at_a_time_is_refused_and_leaves_nothing(
    tmp_path: Path, end: list[object], told: str
) -> None:
    file = network(tmp_path / "net.onnx", shape=(1, 3, SIZE, SIZE), end=end)  # type: ignore[arg-type]
    target = tmp_path / "models" / "colours" / "1"
    with pytest.raises(ExportError, match=told):
        import_network(Source(file, LABELS, Normalisation()), target)
    assert not list(target.parent.iterdir())


def test_a_version_is_never_written_over(tmp_path: Path) -> None:
    file, target = network(tmp_path / "net.onnx"), tmp_path / "models" / "colours" / "1"
    import_network(Source(file, LABELS, Normalisation()), target)
    with pytest.raises(ExportError, match="versions never change"):
        import_network(Source(file, LABELS, Normalisation()), target)


@pytest.mark.parametrize("text", ["", "one\n", "one\ntwo\none\n", b"\xff\xfe\x00"])
def test_labels_that_are_none_are_told(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ExportError, match=r"labels.txt (must name|can't be read)"):
        read_labels(path)


def test_labels_of_any_system_are_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffhéron\r\n cat \r\n\r\n".encode())
    assert read_labels(path) == ("héron", "cat")


def test_golden_pictures_are_replayed(tmp_path: Path) -> None:
    file, target = network(tmp_path / "net.onnx"), tmp_path / "models" / "colours" / "1"
    import_network(Source(file, LABELS, Normalisation()), target)
    with np.load(target / "golden.npz") as stored:
        assert stored["images"].shape[1:] == (SIZE, SIZE, 3)
        assert np.allclose(stored["probabilities"].sum(1), 1)
