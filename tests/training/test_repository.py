"""What models say of themselves, or one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.errors import TrainingError
from training.repository import read_model, read_models


def test_every_model_in_the_repository_is_read(models_dir: Path) -> None:
    assert [(each.name, each.version) for each in read_models(models_dir)] == [("colours", "1"), ("colours", "2")]
    assert read_model(models_dir / "colours" / "2") == read_models(models_dir)[1]


@pytest.mark.parametrize("content", ["", "{}", '{"name": 3}', "\xff"])
def test_one_that_is_damaged_is_named(content: str, tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / "1"
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text(content, encoding="latin-1")
    with pytest.raises(TrainingError, match=r"tiny/1 is not an exported model: its metadata.json is missing or not"):
        read_models(tmp_path)
