"""The contract between training and service."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.metadata import FileRecord, ModelMetadata


@pytest.fixture
def metadata(models_dir: Path) -> ModelMetadata:
    return ModelMetadata.read(models_dir / "colours" / "1")


def test_it_survives_writing_and_reading(metadata: ModelMetadata, tmp_path: Path) -> None:
    metadata.write(tmp_path)
    assert ModelMetadata.read(tmp_path) == metadata
    assert [path.name for path in tmp_path.iterdir()] == ["metadata.json"]


def test_what_does_not_fit_onto_the_disk_leaves_what_was_there(metadata: ModelMetadata, tmp_path: Path) -> None:
    metadata.write(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            metadata.model_copy(update={"version": "9"}).write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ModelMetadata.read(tmp_path) == metadata
    assert [path.name for path in tmp_path.iterdir()] == ["metadata.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../up"},
        {"version": "0"},
        {"version": "one"},
        {"labels": ("only",)},
        {"labels": ("twice", "twice")},
        {"files": {}},
        {"unheard_of": 1},
        {"parameters": 0},
        {"calibration": {"temperature": 1, "biases": (0.1, 0.2), "fitted_on": "fewer classes"}},
    ],
    ids=str,
)
def test_what_does_not_hold_is_refused(metadata: ModelMetadata, change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ModelMetadata.model_validate({**metadata.model_dump(), **change})


def test_what_is_read_and_does_not_hold_is_told_by_its_place_and_logged_in_full(
    metadata: ModelMetadata, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metadata.model_copy(update={"parameters": 0}).write(tmp_path)
    with pytest.raises(ValueError, match=r"^metadata.json is not as it should be at parameters; the log says why$"):
        ModelMetadata.read(tmp_path)
    assert "parameters: Input should be greater than 0" in caplog.text


def test_a_file_s_own_temperature_may_stand_alone_as_it_did(metadata: ModelMetadata) -> None:
    document = metadata.model_dump(mode="json")
    document["calibration"] |= {"others": {"int8": 1.25}}
    calibration = ModelMetadata.model_validate(document).calibration
    assert (calibration.of("int8").temperature, calibration.of("int8").exponent) == (1.25, 1)
    assert calibration.of("fp32").temperature == 1


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/b", ".hidden", ""])
def test_a_file_is_named_within_its_folder(name: str) -> None:
    with pytest.raises(ValidationError):
        FileRecord(name=name, sha256="0" * 64, size_bytes=1)


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    record = FileRecord.of(path)
    assert record.verify(tmp_path) == path
    path.write_text("after!")
    with pytest.raises(ValueError, match="SHA-256 differs"):
        record.verify(tmp_path)
