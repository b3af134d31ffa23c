"""Networks from elsewhere → versions that are served, or one sentence and nothing else."""

from __future__ import annotations

import hashlib
import math
import shlex
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from starlette.testclient import TestClient

from service.app import create_app
from service.metadata import Evaluation, ModelMetadata, Precision
from service.settings import Settings
from tests.conftest import encode
from tests.training.foreign.networks import (
    LABELS,
    SIZE,
    by_hand,
    compared,
    counted,
    frozen,
    merged,
    network,
    noisy,
    softmax,
)
from tests.training.test_pictures import fill, speckled
from training.__main__ import main
from training.data import load_training_data
from training.errors import ExportError
from training.foreign import importing
from training.foreign.graph import read
from training.foreign.importing import import_network
from training.foreign.source import Source
from training.foreign.wrapping import Normalisation
from training.onnx_graph import run_onnx

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


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
    measured = {(e.split, e.precision): e.accuracy for e in ModelMetadata.read(target).evaluations}
    assert measured == dict.fromkeys(product(("validation", "test"), PRECISIONS), 1)
    for precision in PRECISIONS:
        settings = Settings(models_dir=tmp_path / "models", default_model="colours", device="cpu", precision=precision)
        with TestClient(create_app(settings)) as client:
            answer = client.post("/v1/predict", files={"images": encode(speckled("green", 7))}).json()
        assert answer["predictions"][0]["label"] == "green"


def test_to_calibrate_it_again_by_the_same_pictures_changes_nothing(tmp_path: Path, labels: Path) -> None:
    pictures = fill(tmp_path / "pictures", 30)
    file, target = network(tmp_path / "net.onnx"), tmp_path / "models" / "colours" / "1"
    assert main(["import", str(file), str(target), "--labels", str(labels), "--data", str(pictures)]) == 0
    imported = ModelMetadata.read(target)
    assert main(["calibrate", str(target), "--data", str(pictures)]) == 0
    again = ModelMetadata.read(target)
    assert again.calibration == imported.calibration
    assert [replaced(e) for e in again.evaluations] == [replaced(e) for e in imported.evaluations]
    data = load_training_data(pictures, SIZE)
    assert {e.images for e in again.evaluations} == {len(data.train) + len(data.validation)}


def test_what_is_recorded_as_its_command_makes_the_same_again(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, file = fill(tmp_path / "pictures", 30), network(tmp_path / "net.onnx", shape=("N", 3, "H", "W"))
    (place := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(place)
    words = ["--labels", str(labels.rename(tmp_path / "my labels")), "--size", "16", "--data", str(pictures)]
    words += ["--mean", "0.5", "-0.25", "0", "--std", "0.2", "1", "1"]
    assert main(["import", str(file), "models/colours/1", *words]) == 0
    imported = ModelMetadata.read(place / "models" / "colours" / "1")
    (command,) = {e.command for e in imported.evaluations}
    assert str(tmp_path) not in command
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 0
    again = ModelMetadata.read(tmp_path / "models" / "colours" / "1")
    created = {"created_at": imported.provenance.created_at}
    assert again.model_copy(update={"provenance": again.provenance.model_copy(update=created)}) == imported


def test_weights_in_other_files_are_in_its_metadata_and_card(tmp_path: Path, labels: Path) -> None:
    file, data, target = tmp_path / "b.onnx", tmp_path / "b.data", tmp_path / "models" / "colours" / "1"
    model = onnx.load(network(tmp_path / "a.onnx"))
    onnx.save_model(model, str(file), save_as_external_data=True, location=data.name, size_threshold=0)
    assert main(["import", str(file), str(target), "--labels", str(labels)]) == 0
    digest = hashlib.sha256(file.read_bytes() + data.read_bytes()).hexdigest()
    assert ModelMetadata.read(target).provenance.config["sha256"] == digest
    assert "| files | b.onnx, b.data |" in (target / "MODEL_CARD.md").read_text()


def replaced(evaluation: Evaluation) -> Evaluation:
    """But for the command."""
    return evaluation.model_copy(update={"command": ""})


def test_what_other_pictures_of_its_classes_say_is_shown_and_not_recorded(
    tmp_path: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, others = fill(tmp_path / "own", 30), fill(tmp_path / "my others", 30, first=30)
    file, target = network(tmp_path / "it's a net.onnx"), tmp_path / "models" / "colours" / "1"
    assert main(["import", str(file), str(target), "--labels", str(labels), "--data", str(own)]) == 0
    before = (target / "metadata.json").read_bytes(), (target / "MODEL_CARD.md").read_bytes()
    for words in (["evaluate", "--record"], ["evaluate", "--split", "validation", "--record"], ["calibrate"]):
        assert main([*words, str(target), "--data", str(others)]) == 1
        assert capsys.readouterr().err == (
            "convoy-train: colours, version 1, is recorded as measured on the folder own, and the folder my others "
            "would pass for that; point --data at the folder own, or evaluate without --record.\n"
        )
    assert ((target / "metadata.json").read_bytes(), (target / "MODEL_CARD.md").read_bytes()) == before
    assert main(["evaluate", str(target), "--data", str(others)]) == 0
    assert main(["evaluate", str(target), "--data", str(own), "--record"]) == 0


@pytest.mark.parametrize("command", ["convoy-train import it's.onnx models/colours/1", None])
def test_what_is_recorded_without_its_data_keeps_none_out(tmp_path: Path, labels: Path, command: str | None) -> None:
    pictures = fill(tmp_path / "pictures", 30)
    file, target = network(tmp_path / "net.onnx"), tmp_path / "models" / "colours" / "1"
    assert main(["import", str(file), str(target), "--labels", str(labels), "--data", str(pictures)]) == 0
    imported = ModelMetadata.read(target)
    told = tuple(e.model_copy(update={"command": command}) for e in imported.evaluations) if command else ()
    imported.model_copy(update={"evaluations": told}).write(target)
    assert main(["evaluate", str(target), "--data", str(fill(tmp_path / "others", 30)), "--record"]) == 0


def test_thresholds_of_what_no_pictures_calibrated_are_of_its_own_probabilities(tmp_path: Path, labels: Path) -> None:
    """Calibrated, they would be far surer: it is always right."""
    pictures = fill(tmp_path / "pictures", 60)
    file, target = network(tmp_path / "net.onnx"), tmp_path / "models" / "colours" / "1"
    assert main(["import", str(file), str(target), "--labels", str(labels)]) == 0
    assert main(["calibrate", str(target), "--data", str(pictures)]) == 0
    images = load_training_data(pictures, SIZE).validation.images
    thresholds = ModelMetadata.read(target).calibration.thresholds["fp32"]
    assert (run_onnx(target / "model.onnx", images.numpy()).max(1) >= thresholds["0.9"]).mean() >= 0.9
    card = (target / "MODEL_CARD.md").read_text()
    assert "No calibration was fitted, so no ECE flatters." in card
    assert "from the images kept for validation" in card
    assert "calibration was fitted on" not in card


@pytest.mark.parametrize("settled", [True, False])
def test_that_a_network_works_out_shapes_is_on_its_card_where_it_can_not_be_helped(
    tmp_path: Path, settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not settled:
        monkeypatch.setattr(importing, "settled", lambda foreign: foreign)
    file, target = network(tmp_path / "net.onnx", end=counted()), tmp_path / "models" / "colours" / "1"
    import_network(Source(file, read(file), LABELS, Normalisation()), target)
    assert ("it can't be served on a GPU" in (target / "MODEL_CARD.md").read_text()) is not settled


def test_what_it_has_no_label_for_is_told(tmp_path: Path, labels: Path) -> None:
    file, target = network(tmp_path / "net.onnx"), tmp_path / "models" / "colours" / "1"
    with pytest.raises(ExportError, match="has 3 outputs, and there are 2 labels"):
        import_network(Source(file, read(file), ("a", "b"), Normalisation()), target)
    pictures = fill(tmp_path / "pictures", 30, names=("red", "violet"))
    assert main(["import", str(file), str(target), "--labels", str(labels), "--data", str(pictures)]) == 1
    assert not target.parent.exists()


def test_answers_that_are_no_numbers_are_told_as_such(tmp_path: Path) -> None:
    not_numbers = [helper.make_node("Constant", [], ["nan"], value_float=math.nan)]
    file = network(tmp_path / "net.onnx", end=[*not_numbers, helper.make_node("Add", ["logits", "nan"], ["output"])])
    with pytest.raises(ExportError, match="to generated pictures are not finite numbers: its weights are damaged, or"):
        import_network(Source(file, read(file), LABELS, Normalisation()), tmp_path / "models" / "colours" / "1")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (frozen(), "does not run with 2 images at a time; export it again with a batch axis"),
        (merged(), "does not run with 2 images at a time; export it again with a batch axis"),
        (noisy(), "Asked again about one image, .* export it for inference, without dropout or noise"),
        (compared(), "differ from those of one by up to .*must not depend on others"),
    ],
)
def test_a_network_for_one_image_at_a_time_is_refused_and_leaves_nothing(
    tmp_path: Path, end: list[object], told: str
) -> None:
    file = network(tmp_path / "net.onnx", shape=(1, 3, SIZE, SIZE), end=end)  # type: ignore[arg-type]
    target = tmp_path / "models" / "colours" / "1"
    with pytest.raises(ExportError, match=told):
        import_network(Source(file, read(file), LABELS, Normalisation()), target)
    assert not target.parent.exists()


def test_it_is_refused_before_pictures_are_run_through_it(
    tmp_path: Path, labels: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = network(tmp_path / "net.onnx", shape=(1, 3, SIZE, SIZE), end=frozen())
    words = ["import", str(file), str(tmp_path / "models" / "colours" / "1"), "--labels", str(labels)]
    assert main([*words, "--data", str(fill(tmp_path / "pictures", 30))]) == 1
    (told,) = capfd.readouterr().err.splitlines()  # and nothing of ONNX Runtime's own
    assert "does not run with 2 images at a time" in told


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_what_takes_no_square_images_is_not_measured_on_pictures(
    command: str, tmp_path: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = network(tmp_path / "net.onnx", shape=("N", 3, SIZE, 2 * SIZE))
    target = tmp_path / "models" / "colours" / "1"
    assert main(["import", str(file), str(target), "--labels", str(labels)]) == 0
    assert main([command, str(target), "--data", str(fill(tmp_path / "pictures", 30))]) == 1
    assert "takes images of 32 × 16; only models of square ones" in capsys.readouterr().err


def test_the_version_of_onnx_runtime_is_told_by_whatever_name_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "version", {"onnx": "1.2.3"}.__getitem__)
    file, target = network(tmp_path / "net.onnx"), tmp_path / "models" / "colours" / "1"
    versions = import_network(Source(file, read(file), LABELS, Normalisation()), target).provenance.export
    assert versions == {"onnx": "1.2.3", "onnxruntime": onnxruntime.__version__}


def test_where_it_is_to_go_is_judged_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["import", str(tmp_path / "none.onnx"), str(tmp_path / "Upper" / "1"), "--labels", str(tmp_path / "none")]
    assert main(words) == 1
    assert "names no version of a model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "serve"),
    [
        ("models/colours/1", "convoy serve --default-model colours"),
        ("my models/colours/1", "convoy serve --models-dir 'my models' --default-model colours"),
    ],
)
def test_what_to_do_next_is_told_for_where_it_is(
    target: str,
    serve: str,
    tmp_path: Path,
    labels: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["import", str(network(tmp_path / "net.onnx")), target, "--labels", str(labels)]) == 0
    assert capsys.readouterr().out.endswith(f" Next: {serve}\n")


@pytest.mark.parametrize("target", ["2", "./2", "../colours/2", "../2"])
def test_the_name_of_a_model_is_that_of_the_folder_one_is_in(
    target: str, tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "models" / "colours" / ("deeper" if target == "../2" else "")
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    assert main(["import", str(network(tmp_path / "net.onnx")), target, "--labels", str(labels)]) == 0
    metadata = ModelMetadata.read(tmp_path / "models" / "colours" / "2")
    assert (metadata.name, metadata.version) == ("colours", "2")


def test_a_version_is_never_written_over(tmp_path: Path) -> None:
    file, target = network(tmp_path / "net.onnx"), tmp_path / "models" / "colours" / "1"
    import_network(Source(file, read(file), LABELS, Normalisation()), target)
    with pytest.raises(ExportError, match="versions never change"):
        import_network(Source(file, read(file), LABELS, Normalisation()), target)


def test_golden_pictures_are_replayed(tmp_path: Path) -> None:
    file, target = network(tmp_path / "net.onnx"), tmp_path / "models" / "colours" / "1"
    import_network(Source(file, read(file), LABELS, Normalisation()), target)
    with np.load(target / "golden.npz") as stored:
        assert stored["images"].shape[1:] == (SIZE, SIZE, 3)
        assert np.allclose(stored["probabilities"].sum(1), 1)
