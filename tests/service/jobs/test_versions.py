"""The version that `convoy score` works with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from service.choices import Choice
from service.jobs.versions import chosen_folder
from service.loading import opener
from service.repository import ModelRepository
from service.settings import Settings
from tests.conftest import clear_environment


def test_a_version_that_is_named_goes_before_the_active_one_and_that_before_the_highest_wanted(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear_environment(monkeypatch)
    root = Path(shutil.copytree(models_dir, tmp_path / "models"))
    settings = Settings(models_dir=root, default_model="colours")
    assert [chosen_folder(settings, "colours", each).name for each in ("1", "2", None)] == ["1", "2", "2"]
    Choice("1").write(root / "colours")
    assert [chosen_folder(settings, None, each).name for each in ("1", "2", None)] == ["1", "2", "1"]
    Choice(None, frozenset({"2"})).write(root / "colours")
    assert [chosen_folder(settings, None, each).name for each in ("1", "2", None)] == ["1", "2", "1"]
    with pytest.raises(ValueError, match="There is no model colours 3 in "):
        chosen_folder(settings, None, "3")


def test_what_no_server_could_load_is_not_the_highest_version(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clear_environment(monkeypatch)
    root = Path(shutil.copytree(models_dir, tmp_path / "models"))
    settings = Settings(models_dir=root, default_model="colours")
    for name in (".1-old", "1.bak", ".export-x1y2"):
        shutil.copytree(root / "colours" / "1", root / "colours" / name)
    assert chosen_folder(settings, None, None).name == "2"
    assert capsys.readouterr().err == ""
    for name in ("3", "10"):
        shutil.copytree(root / "colours" / "1", root / "colours" / name)
    with (root / "colours" / "2" / "model.onnx").open("ab") as file:
        file.write(b"x")
    assert chosen_folder(settings, None, None).name == "1"
    ten, three, two = capsys.readouterr().err.splitlines()
    assert ten == "Version 10 of colours is passed over, as by a server: its metadata says it is colours/1."
    assert (three[:9], two[:9]) == ("Version 3", "Version 2")
    assert ModelRepository(root, "colours", opener(settings, threads=1)).active_version("colours") == "1"
