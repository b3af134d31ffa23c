"""Exported models as teachers: they answer as their files do, and a student learns from them."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from service.metadata import Calibration, FileRecord, ModelMetadata
from training import checkpoint
from training.__main__ import main
from training.calibrate import Calibrator
from training.checkpoint import network_of
from training.errors import CheckpointError
from training.exported import is_exported, load_exported
from training.onnx_graph import InferenceGraph, run_onnx, write_onnx
from training.recipes import RECIPES

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.parent for path in ROOT.glob("models/*/*/metadata.json"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "models" / "tutorial-cnn" / "1", tmp_path / "models" / "tutorial-cnn" / "1"))


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_what_is_shipped_teaches_what_its_file_answers(folder: Path) -> None:
    teacher = load_exported(folder)
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    with torch.no_grad():
        logits = network_of(teacher)(torch.from_numpy(images).permute(0, 3, 1, 2).float())
    calibration = ModelMetadata.read(folder).calibration
    alone = calibration.exponent == 1  # then the temperature is part of the teacher
    temperature = 1.0 if alone else calibration.temperature
    expected = Calibrator(temperature, calibration.biases, calibration.exponent)(logits).numpy()
    assert np.abs(run_onnx(folder / "model.onnx", images) - expected).max() < 1e-4
    assert teacher.provenance["weights"].startswith(f"models/{folder.parent.name}/{folder.name}")
    assert teacher.provenance["weights"].endswith("its temperature among them") == alone
    assert teacher.config.augmentations == tuple(teacher.config.augmentations)


def test_class_biases_and_a_temperature_fitted_with_an_exponent_are_no_part_of_a_teacher(model: Path) -> None:
    plain, metadata = load_exported(model), ModelMetadata.read(model)
    calibrator = Calibrator(1.7, tuple(0.1 * i for i in range(10)), 1.3)
    graph = InferenceGraph(network_of(plain), calibrator)
    write_onnx(graph, model / "model.onnx", height=32, width=32, properties={})
    files = {"fp32": FileRecord.of(model / "model.onnx")}
    calibration = Calibration(**asdict(calibrator), fitted_on="nothing")
    metadata.model_copy(update={"files": files, "calibration": calibration}).write(model)
    for name, weight in load_exported(model).model.items():
        assert torch.allclose(weight, plain.model[name], atol=1e-5)


def test_a_student_learns_from_an_exported_model(
    model: Path, generated_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught = replace(RECIPES["tutorial"], teachers=("tutorial",), start_from_teacher=True, max_steps=2)
    monkeypatch.setitem(RECIPES, "tutorial", taught)
    run, data = tmp_path / "run", ["--data", str(generated_data)]
    assert main(["train", "tutorial", *data, "--teachers", str(model), "--output", str(run)]) == 0
    (teacher,) = checkpoint.load_finished(run).teachers
    assert teacher.recipe == "tutorial"
    shutil.rmtree(model)
    assert main(["train", "--resume", str(run), *data]) == 0


def test_a_damaged_model_teaches_nothing(model: Path) -> None:
    (model / "model.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged or of another version"):
        load_exported(model)


def test_one_that_is_too_large_for_the_memory_is_not_called_damaged(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    monkeypatch.setattr("training.exported._weights", Mock(side_effect=told))
    with pytest.raises(RuntimeError, match="can't allocate"):
        load_exported(model)


def test_weights_of_another_architecture_teach_nothing(model: Path) -> None:
    document = json.loads((model / "metadata.json").read_text())
    document["architecture"] = "plain-cnn-small"
    (model / "metadata.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="damaged or of another version"):
        load_exported(model)


def test_a_network_that_computes_otherwise_teaches_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.exported.run_onnx", lambda *_: np.zeros((64, 10), np.float32))
    with pytest.raises(CheckpointError, match="no tutorial-cnn of this version"):
        load_exported(model)


def test_a_run_is_no_exported_model(tmp_path: Path) -> None:
    assert not is_exported(tmp_path)
