"""Finished runs → models that compute the same, or nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch

from service.metadata import ModelMetadata, TeacherRecord
from tests.training.test_pictures import fill
from training import checkpoint as checkpoints
from training import golden, model_files, plots, report, robustness
from training.calibrate import Calibrator
from training.checkpoint import load_teacher
from training.corruptions import CORRUPTIONS
from training.data import TrainingData, load_training_data
from training.device import Precision
from training.errors import CheckpointError, ExportError, TrainingError
from training.evaluate import evaluate_model, evaluate_robustness, fit_thresholds, record
from training.export import _provenance, export, exportable
from training.loop import train
from training.model_files import ModelFile, torch_logits
from training.onnx_graph import run_onnx
from training.recipes import RECIPES
from training.repository import read_model
from training.run import Run

CALIBRATED_SOFTMAX = {"LogSoftmax", "Abs", "Pow", "Neg", "Softmax"}
pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture
def data(generated_data: Path) -> TrainingData:
    return load_training_data(generated_data)


@pytest.fixture(autouse=True)
def coarse_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 generated validation images one is half a point."""
    monkeypatch.setattr(model_files, "GATE_ACCURACY_LOSS", 0.03)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the one run and the one model that these tests look at are kept."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def finished(shelf: Path, data: TrainingData, tmp_path: Path) -> Path:
    if not (shelf / "run").exists():
        config = replace(RECIPES["cifar10-teacher-44"], batch_size=100, max_steps=50)
        train(Run("cifar10-teacher-44", config, data, torch.device("cpu"), Precision.FP32), shelf / "run")
    return Path(shutil.copytree(shelf / "run", tmp_path / "run"))


@pytest.fixture
def model(shelf: Path, finished: Path, data: TrainingData, tmp_path: Path) -> Path:
    kept = shelf / "models" / "tiny" / "1"
    if not kept.exists():
        export(finished, kept, data, description="A try.", notes=("Noted.",))
    return Path(shutil.copytree(kept, tmp_path / "models" / "tiny" / "1"))


def test_a_model_is_complete_and_says_what_it_is(model: Path) -> None:
    onnx_files = {"model.onnx", "model.fp16.onnx", "model.int8.onnx"}
    metadata = ModelMetadata.read(model)
    assert metadata.stages
    assert {path.name for path in model.iterdir()} == {
        "metadata.json",
        "golden.npz",
        "MODEL_CARD.md",
        "reliability.svg",
        metadata.stages.file.verify(model).name,
        *onnx_files,
    }
    assert (metadata.name, metadata.version, metadata.input.height) == ("tiny", "1", 32)
    assert {file.verify(model).name for file in metadata.files.values()} == onnx_files
    assert metadata.golden.verify(model)
    assert metadata.calibration.fitted_on == "200 training images kept for validation and their mirror images"
    assert metadata.provenance.config["lr"] == RECIPES["cifar10-teacher-44"].lr
    assert set(metadata.provenance.export) >= {"git_revision", "torch", "onnx", "opset"}
    assert [(e.split, e.precision) for e in metadata.evaluations] == [
        ("validation", precision) for precision in ("fp32", "fp16", "int8")
    ]
    assert {e.command for e in metadata.evaluations} == {"convoy-train export run models/tiny/1"}
    assert list(model.parent.iterdir()) == [model]  # no scaffolding is left


def test_the_graph_is_the_one_promised(model: Path) -> None:
    graph = onnx.load(model / "model.onnx")
    (image,), (probabilities,) = graph.graph.input, graph.graph.output
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["batch", 32, 32, 3]
    assert [d.dim_param or d.dim_value for d in probabilities.type.tensor_type.shape.dim] == ["batch", 10]
    kinds = {node.op_type for node in graph.graph.node}
    assert kinds == {"Transpose", "Cast", "Conv", "Relu", "MaxPool", "Reshape", "Gemm"} | CALIBRATED_SOFTMAX
    assert {p.key for p in graph.metadata_props} == {"name", "version", "labels", "temperature", "biases", "exponent"}


@pytest.mark.parametrize("name", model_files.NAMES.values())
def test_a_file_tells_nothing_of_the_machine_that_made_it(name: str, model: Path) -> None:
    content = (model / name).read_bytes()
    for path in (Path(__file__).parents[2], Path(torch.__file__).parents[1]):
        assert str(path).encode() not in content


def test_probabilities_are_torchs(model: Path, finished: Path, data: TrainingData) -> None:
    saved = checkpoints.load(finished)
    scaling = ModelMetadata.read(model).calibration
    calibrator = Calibrator(scaling.temperature, scaling.biases, scaling.exponent)
    expected = calibrator(torch_logits(checkpoints.network_of(saved), data.train.images)).numpy()
    got = run_onnx(model / "model.onnx", data.train.images.numpy(), 13)
    assert np.abs(got - expected).max() <= 1e-5


def test_golden_samples_are_generated_pictures_with_torchs_probabilities(model: Path) -> None:
    with np.load(model / "golden.npz") as arrays:
        assert np.array_equal(arrays["images"], golden.pictures(32, 32))
        assert np.abs(run_onnx(model / "model.onnx", arrays["images"]) - arrays["probabilities"]).max() <= 1e-5
        assert len(set(arrays["probabilities"].argmax(1))) > 1
        for precision in ("fp16", "int8"):
            expected = run_onnx(model / f"model.{precision}.onnx", arrays["images"])
            assert np.array_equal(arrays[f"probabilities_{precision}"], expected)


def test_an_export_that_computes_something_else_writes_nothing(
    finished: Path, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "run_onnx", lambda *arguments: np.roll(run_onnx(*arguments), 1, axis=1))
    with pytest.raises(ExportError, match=r"labels change.*nothing was written"):
        export(finished, tmp_path / "models" / "tiny" / "1", data)
    assert not (tmp_path / "models").exists()


class Rolled(ModelFile):
    """Right as often as any on what was held out, and about other images of another opinion."""

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.roll(super().probabilities(images), 1, axis=1)


def test_an_export_whose_int8_file_is_of_another_opinion_writes_nothing(
    finished: Path, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "training.export.check_agreement",
        lambda files, images: model_files.check_agreement(
            files | {"int8": Rolled(files["int8"].path, files["int8"].calibrator)}, images
        ),
    )
    with pytest.raises(ExportError, match=r"The int8 file gives .* training images another label.*nothing was written"):
        export(finished, tmp_path / "models" / "tiny" / "1", data)
    assert not (tmp_path / "models").exists()


def test_the_version_of_onnx_runtime_is_told_by_whatever_name_it_is_installed(
    finished: Path, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.export.version", dict.fromkeys(("torch", "onnx"), "1.2.3").__getitem__)
    versions = _provenance(checkpoints.load(finished), data).export
    assert (versions["torch"], versions["onnxruntime"]) == ("1.2.3", onnxruntime.__version__)


def test_an_unfinished_run_is_not_exported(finished: Path, data: TrainingData, tmp_path: Path) -> None:
    saved = checkpoints.load(finished)
    checkpoints.save(replace(saved, step=saved.step - 1), finished)
    with pytest.raises(CheckpointError, match="49 of 50 steps; finish it with: convoy-train train --resume"):
        export(finished, tmp_path / "models" / "tiny" / "1", data)


def test_numbers_that_fp16_has_not_are_told(finished: Path, data: TrainingData, tmp_path: Path) -> None:
    saved = checkpoints.load(finished)
    saved.model["stages.0.norm1.bias"] += 1e6
    checkpoints.save(saved, finished)
    with pytest.raises(ExportError, match="The fp16 file gives probabilities that are no numbers"):
        export(finished, tmp_path / "models" / "tiny" / "1", data)
    assert not (tmp_path / "models").exists()


def test_a_version_is_never_overwritten(model: Path, finished: Path, data: TrainingData) -> None:
    with pytest.raises(ExportError, match="export to the next version"):
        export(finished, model, data)


@pytest.mark.parametrize(
    "place", ["models/Pets/1", "models/pets", "models/pets/01", "models/pets/v1", "models/pets/0", "1"]
)
def test_what_can_be_no_version_is_refused_before_anything_is_done(place: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=rf"{place} names no version of a model; export to models/NAME/VERSION"):
        exportable(tmp_path / "nowhere", Path(place))


def test_a_run_is_not_exported_by_pictures_of_other_classes(finished: Path, data: TrainingData, tmp_path: Path) -> None:
    pets = replace(data, labels=("cat", "dog"), name="pets")
    with pytest.raises(ExportError, match=r"run knows airplane, .*, truck, and the images of pets are of cat, dog;"):
        export(finished, tmp_path / "models" / "tiny" / "1", pets)
    assert not (tmp_path / "models").exists()


def test_evaluation_measures_every_file_on_the_test_split_and_is_recorded_once(
    model: Path, generated_data: Path
) -> None:
    evaluations = evaluate_model(model, generated_data)
    assert [e.precision for e in evaluations] == ["fp32", "fp16", "int8"]
    for evaluation in evaluations:
        assert (evaluation.split, evaluation.images) == ("test", 400)
        assert evaluation.accuracy > 0.5
        assert evaluation.accuracy == pytest.approx(sum(evaluation.class_accuracy.values()) / 10)
        assert f"{evaluation.accuracy:.2%}" in report.table(evaluation)
    record(model, evaluations)
    record(model, evaluations)
    assert [e.split for e in read_model(model).evaluations] == ["validation"] * 3 + ["test"] * 3


def test_the_card_plots_reliability_on_the_test_split_once_that_is_measured(model: Path, generated_data: Path) -> None:
    before = (model / "reliability.svg").read_text()
    assert "validation split" in before
    record(model, evaluate_model(model, generated_data))
    after = (model / "reliability.svg").read_text()
    assert after == plots.reliability_svg(report.plotted(read_model(model)))
    assert "test split" in after
    assert "validation split" not in after
    assert "(reliability.svg)" in (model / "MODEL_CARD.md").read_text()


def test_prediction_sets_keep_their_promise_and_are_in_the_card(model: Path, generated_data: Path) -> None:
    calibration = ModelMetadata.read(model).calibration
    assert set(calibration.thresholds) == {"fp32", "fp16", "int8"}
    for thresholds in calibration.thresholds.values():
        assert set(thresholds) == {"0.9", "0.95", "0.99"}
        assert thresholds["0.9"] >= thresholds["0.95"] >= thresholds["0.99"]
    for evaluation in evaluate_model(model, generated_data):
        for asked, sets in evaluation.prediction_sets.items():
            assert sets.coverage > float(asked) - 0.06  # 200 images to calibrate with and 400 to measure on
        assert "sets for 95%" in report.table(evaluation)
    assert f"| 99% | {read_model(model).evaluations[0].prediction_sets['0.99'].coverage:.2%} |" in report.card(
        read_model(model)
    )


def test_a_model_without_thresholds_is_given_those_of_an_export_and_keeps_its_files(
    model: Path, generated_data: Path
) -> None:
    exported = ModelMetadata.read(model)
    bare = exported.calibration.model_copy(update={"thresholds": {}})
    exported.model_copy(update={"calibration": bare, "evaluations": exported.evaluations[:1]}).write(model)
    fit_thresholds(model, generated_data)
    calibrated = ModelMetadata.read(model)
    assert calibrated.calibration == exported.calibration
    assert calibrated.files == exported.files
    assert [e.prediction_sets for e in calibrated.evaluations] == [e.prediction_sets for e in exported.evaluations]
    assert (model / "MODEL_CARD.md").read_text() == report.card(calibrated)


def test_few_images_that_may_have_calibrated_a_model_are_divided_to_find_its_thresholds(
    model: Path, generated_data: Path
) -> None:
    """Of so many more that the number of these says nothing: some of them may be among those."""
    exported = ModelMetadata.read(model)
    of_others = {"fitted_on": exported.calibration.fitted_on.replace("200", "220")}
    exported.model_copy(update={"calibration": exported.calibration.model_copy(update=of_others)}).write(model)
    fit_thresholds(model, generated_data)
    assert ModelMetadata.read(model).calibration.thresholds == exported.calibration.thresholds


def test_thresholds_are_not_those_of_other_pictures_than_the_card_tells_of(
    model: Path, generated_data: Path, tmp_path: Path
) -> None:
    before = (model / "metadata.json").read_bytes()
    pictures = fill(tmp_path / "pictures", 12, names=read_model(model).labels)
    with pytest.raises(TrainingError, match=r"measured on CIFAR-10, and the folder pictures would pass for that"):
        fit_thresholds(model, pictures)
    assert (model / "metadata.json").read_bytes() == before
    fit_thresholds(model, generated_data)


def test_what_other_thresholds_measured_on_the_test_split_is_forgotten(model: Path, generated_data: Path) -> None:
    record(model, evaluate_model(model, generated_data))
    fit_thresholds(model, generated_data)
    evaluations = ModelMetadata.read(model).evaluations
    assert {e.split for e in evaluations} == {"validation", "test"}
    for evaluation in evaluations:
        assert bool(evaluation.prediction_sets) == (evaluation.split == "validation")
    assert evaluate_model(model, generated_data)[0].prediction_sets


def test_a_calibration_that_is_stopped_changes_nothing(
    model: Path, generated_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (model / "metadata.json").read_bytes()
    monkeypatch.setattr("training.evaluate.evaluate_probabilities", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fit_thresholds(model, generated_data)
    assert (model / "metadata.json").read_bytes() == before


def test_robustness_is_measured_and_recorded(
    model: Path, generated_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robustness, "CORRUPTIONS", {"contrast": CORRUPTIONS["contrast"]})
    measured = evaluate_robustness(model, generated_data, "validation")
    record(model, (), measured)
    record(model, (), measured)
    found = read_model(model).robustness
    assert [(e.split, e.precision, e.images) for e in found] == [
        ("validation", precision, 200) for precision in ("fp32", "int8")
    ]
    assert found[0].command == "convoy-train evaluate models/tiny/1 --split validation --suite full"
    card = (model / "MODEL_CARD.md").read_text()
    assert (
        "| contrast | " + " | ".join(" · ".join(f"{a:.1%}" for a in e.corruptions["contrast"]) for e in found) in card
    )
    assert f"{found[0].jpeg_75:.2%}" in report.robustness_table(found[0], ())


def test_the_card_tells_which_corruptions_the_network_was_prepared_for(
    model: Path, generated_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robustness, "CORRUPTIONS", {name: CORRUPTIONS[name] for name in ("jpeg", "fog", "shot-noise")})
    record(model, (), evaluate_robustness(model, generated_data, "validation"))
    metadata = read_model(model)
    (fp32, _) = metadata.robustness
    degraded = metadata.provenance.config | {"degradations": ["grey-10", "noise-20", "jpeg-25"]}
    prepared = metadata.model_copy(
        update={"provenance": metadata.provenance.model_copy(update={"config": degraded})}, deep=True
    )
    assert report.seen_in_training(metadata) == ()
    assert report.seen_in_training(prepared) == ("gaussian-noise", "shot-noise", "jpeg")
    assert "trained on the like of" not in report.card(metadata)
    card = report.card(prepared)
    assert "trained on the like of gaussian-noise and shot-noise and jpeg." in card
    assert f"| mean of the 1 not trained on | {fp32.mean_corruption_accuracy(['jpeg', 'shot-noise']):.2%} |" in card


def test_the_card_tells_what_the_network_went_on_from(model: Path) -> None:
    metadata = read_model(model)
    start, teacher = (
        TeacherRecord(recipe=name, config={"degradations": [degradation]}, training={})
        for name, degradation in (("start", "noise-20"), ("teacher", "jpeg-33"))
    )

    def card(teachers: tuple[TeacherRecord, ...] = (start, teacher, teacher), **config: int | list[int]) -> str:
        changed = {"config": metadata.provenance.config | config, "teachers": teachers, "epochs": 56}
        provenance = metadata.provenance.model_copy(update=changed)
        went_on = metadata.model_copy(update={"provenance": provenance})
        prepared = ("gaussian-noise", "shot-noise") if "start_from_teacher" in config else ()
        assert report.seen_in_training(went_on) == prepared
        return report.card(went_on)

    assert "what these networks say of the same pixels, seen both ways round, not from labels.\n" in card()
    assert "not from labels. It went on from the weights of the first.\n" in card(start_from_teacher=True)
    assert "what the teachers of the last of these networks said" in card(inherit_answers=True)
    averaged = card(start_from_teacher=True, start_teaches=False, restarts=[40, 48], start_weight=3)
    assert "what the last 2 of these networks say" in averaged
    taught_by_one = card((start, teacher), start_from_teacher=True, start_teaches=False)
    assert "what the last of these networks says of the same pixels" in taught_by_one
    assert " The last weights are the mean of those, counted 3 times, and of the ends of 3 lr schedules.\n" in averaged
    assert "of those and of the ends of 2 lr schedules." in card(start_from_teacher=True, restarts=[40, 56])
    assert "of those and of those at the end." in card(start_from_teacher=True, restarts=[56, 64])


def test_the_card_shows_numbers_with_their_commands(model: Path, generated_data: Path) -> None:
    record(model, evaluate_model(model, generated_data))
    card = (model / "MODEL_CARD.md").read_text()
    evaluation = read_model(model).evaluations[-1]
    assert f"| {evaluation.accuracy:.2%} |" in card
    assert "`convoy-train evaluate models/tiny/1`" in card
    assert "- Noted." in card
    assert card == report.card(read_model(model))


def test_what_held_nothing_back_is_not_exported(data: TrainingData, tmp_path: Path) -> None:
    config = replace(RECIPES["cifar10-teacher-44"], batch_size=100, max_steps=2)
    run = Run("cifar10-teacher-44", config, data.whole(), torch.device("cpu"), Precision.FP32)
    train(run, tmp_path / "run")
    with pytest.raises(ExportError, match="learned from the validation images too"):
        export(tmp_path / "run", tmp_path / "models" / "leaky" / "1", data)
    assert not (tmp_path / "models").exists()
    with pytest.raises(CheckpointError, match="what begins with it or learns from it could be measured"):
        load_teacher(tmp_path / "run")


def test_a_damaged_model_is_not_evaluated(model: Path, generated_data: Path) -> None:
    (model / "model.onnx").write_bytes(b"")
    with pytest.raises(TrainingError, match="damaged"):
        evaluate_model(model, generated_data)
    with pytest.raises(TrainingError, match="not an exported model"):
        read_model(model.parent)


def test_a_model_of_other_classes_is_not_evaluated_on_cifar10(model: Path, generated_data: Path) -> None:
    document = json.loads((model / "metadata.json").read_text())
    document["labels"][0] = "zeppelin"
    (model / "metadata.json").write_text(json.dumps(document))
    with pytest.raises(TrainingError, match=r"knows zeppelin, .* and the images in .* are of airplane, "):
        evaluate_model(model, generated_data)


def test_the_card_of_a_student_names_its_teachers(finished: Path, data: TrainingData, tmp_path: Path) -> None:
    teacher = load_teacher(finished)
    config = replace(RECIPES["cifar10-plain"], batch_size=100, max_steps=2)
    student = Run("cifar10-plain", config, data, torch.device("cpu"), Precision.FP32, (teacher, teacher))
    train(student, tmp_path / "student")
    metadata = export(tmp_path / "student", tmp_path / "models" / "student" / "1", data)
    assert [record.recipe for record in metadata.provenance.teachers] == ["cifar10-teacher-44"] * 2
    assert metadata.provenance.teachers[0].config["max_steps"] == 50
    card = (tmp_path / "models" / "student" / "1" / "MODEL_CARD.md").read_text()
    assert "| | `cifar10-teacher-44` | `cifar10-teacher-44` |" in card
    assert "| max_steps | 50 | 50 |" in card
