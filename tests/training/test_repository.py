"""What models say of themselves, or one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from training.errors import TrainingError
from training.repository import new_version, read_model, read_models


def test_every_model_in_the_repository_is_read(models_dir: Path) -> None:
    assert [(each.name, each.version) for each in read_models(models_dir)] == [("colours", "1"), ("colours", "2")]
    assert read_model(models_dir / "colours" / "2") == read_models(models_dir)[1]


def test_what_a_killed_export_left_is_no_model(models_dir: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(models_dir, tmp_path / "models"))
    (root / "colours" / "2").rename(root / "colours" / ".export-x")
    assert read_models(root) == read_models(models_dir)[:1]


@pytest.mark.parametrize("content", ["", "{}", '{"name": 3}', "\xff"])
def test_one_that_is_damaged_is_named(content: str, tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / "1"
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text(content, encoding="latin-1")
    with pytest.raises(TrainingError, match=r"tiny/1 is not an exported model: its metadata.json is missing or not"):
        read_models(tmp_path)


def test_a_version_is_its_owners_alone_until_it_is_there_for_all(tmp_path: Path) -> None:
    with new_version(tmp_path / "tiny" / "1") as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "tiny" / "1").stat().st_mode & 0o777 == 0o755
    assert [each.name for each in (tmp_path / "tiny").iterdir()] == ["1"]


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_what_fails_leaves_nothing(raised: type[BaseException], tmp_path: Path) -> None:
    def export() -> None:
        with new_version(tmp_path / "models" / "tiny" / "1") as folder:
            (folder / "model.onnx").write_bytes(b"half")
            raise raised

    with pytest.raises(raised):
        export()
    assert list(tmp_path.iterdir()) == []


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "tiny" / "1").mkdir(parents=True)
    for target in (tmp_path / "empty" / "1", tmp_path / "tiny" / "2"):
        with pytest.raises(ValueError, match="no"), new_version(target):
            raise ValueError("no")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["empty", "tiny"]
    assert [each.name for each in (tmp_path / "tiny").iterdir()] == ["1"]
