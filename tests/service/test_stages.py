"""Rows → what the stages make of them, or why they can't be shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.errors import InferenceFailed
from service.metadata import ModelMetadata
from service.stages import StageViewer
from tests.conftest import write_colour_model

ROW = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_colour_model(tmp_path / "colours" / "1")


def viewer(folder: Path) -> StageViewer:
    metadata = ModelMetadata.read(folder)
    return StageViewer(folder, metadata.files["fp32"], metadata.stages)


def test_every_stage_is_shown_in_its_order(folder: Path) -> None:
    (conv, same), (relu, positive), (mean, pooled) = viewer(folder).view(ROW)
    assert (conv.name, relu.name, mean.name) == ("conv1", "relu1", "mean1")
    assert np.array_equal(same, ROW[0].transpose(2, 0, 1))
    assert np.array_equal(positive, same)
    assert pooled.shape == (3, 1, 1)


def test_a_version_that_was_exported_without_stages_has_none(folder: Path) -> None:
    assert StageViewer(folder, ModelMetadata.read(folder).files["fp32"], None).view(ROW) == []


def test_a_damaged_file_is_found_at_the_start(folder: Path) -> None:
    (folder / "model.stages.onnx").write_bytes(b"something else")
    with pytest.raises(ValueError, match="SHA-256 differs"):
        viewer(folder)


@pytest.mark.parametrize("name", ["model.onnx", "model.stages.onnx"])
def test_files_that_have_gone_since_are_an_error_of_this_request_alone(folder: Path, name: str) -> None:
    stages, content = viewer(folder), (folder / name).read_bytes()
    (folder / name).unlink()
    with pytest.raises(InferenceFailed, match="can't be shown"):
        stages.view(ROW)
    (folder / name).write_bytes(content)
    assert len(stages.view(ROW)) == 3
