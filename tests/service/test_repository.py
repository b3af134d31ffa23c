"""models/<name>/<version>/ → verified and loaded, or a reason why not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest

from service.choices import Choice
from service.engine import Engine
from service.errors import ModelNotFound, StartupError
from service.metadata import ModelMetadata, Precision
from service.repository import ModelRepository
from tests.conftest import write_colour_model


def open_engine(metadata: ModelMetadata, files: Mapping[Precision, Path]) -> Engine:
    spec = metadata.input
    return Engine(
        files,
        device="cpu",
        classes=len(metadata.labels),
        height=spec.height,
        width=spec.width,
        max_batch_size=4,
        threads=1,
    )


def load(root: Path, default: str = "colours") -> ModelRepository:
    return ModelRepository(root, default, open_engine)


@pytest.fixture
def root(models_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models_dir, tmp_path / "models"))


def test_the_highest_version_is_active(root: Path) -> None:
    write_colour_model(root / "colours" / "10")
    repository = load(root)
    assert repository.active_version("colours") == "10"
    assert repository.get("colours").identity.version == "10"
    assert repository.get("colours", "1").identity.version == "1"


def test_an_operator_may_want_another_one_and_may_not_want_some(root: Path) -> None:
    write_colour_model(root / "colours" / "10")
    Choice("2", frozenset({"10", "99"})).write(root / "colours")
    repository = load(root)
    assert repository.active_version("colours") == "2"
    assert set(repository.versions("colours")) == {"1", "2"}
    assert repository.unloaded == {("colours", "10")}


def test_a_model_whose_chosen_version_can_not_serve_is_not_served_by_another_one(root: Path) -> None:
    write_colour_model(root / "shades" / "1")
    Choice("2").write(root / "shades")
    repository = load(root)
    assert "shades" not in repository.models
    assert repository.failed == {("shades", "1"): "its active version, 2, can't be; activate another"}
    Choice("3").write(root / "colours")
    with pytest.raises(StartupError, match="its active version, 3, can't be"):
        load(root)


def test_a_loaded_version_serves_on_whatever_becomes_of_its_files(root: Path) -> None:
    repository = load(root)
    model = root / "colours" / "2" / "model.onnx"
    loaded, whole = repository.get("colours", "2"), model.read_bytes()
    model.write_bytes(whole[:100])  # someone is replacing it, say
    assert repository.look().loaded["colours"]["2"] is loaded
    assert repository.damage(loaded) == "model.onnx is not the file that was exported (its SHA-256 differs)"
    model.unlink()
    assert repository.look().loaded["colours"]["2"] is loaded
    assert repository.damage(loaded) == "model.onnx is missing"
    model.write_bytes(whole)
    assert repository.damage(loaded) is None


def test_choices_that_are_not_understood_keep_the_model_from_serving(root: Path) -> None:
    (root / "colours" / "serving.json").write_text("{")
    with pytest.raises(StartupError, match=r"version 2: serving\.json must be"):
        load(root)


@pytest.mark.parametrize(("name", "version"), [("shapes", None), ("colours", "3"), ("../colours", "1")])
def test_what_is_not_there_is_not_found(root: Path, name: str, version: str | None) -> None:
    with pytest.raises(ModelNotFound):
        load(root).get(name, version)


def damage_model(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"damaged")


@pytest.mark.parametrize("folder", [b"caf\xe9/1", b"colours/caf\xe9", b"Colours copy/1"])
def test_folders_with_names_that_no_model_can_have_are_passed_over(
    folder: bytes, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = root / os.fsdecode(folder)
    shutil.copytree(root / "colours" / "1", place)
    repository = load(root)
    assert list(repository.models) == ["colours"]
    assert set(repository.versions("colours")) == {"1", "2"}
    assert not repository.failed
    assert f"{os.fsdecode(folder)!a} is passed over" in caplog.text


@pytest.mark.parametrize("folder", [".trash/1", "colours/.export-3"])
def test_a_folder_whose_name_begins_with_a_dot_is_no_model(
    folder: str, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(root / "colours" / "1", root / folder)
    repository = load(root)
    assert set(repository.versions("colours")) == repository.stored("colours") == {"1", "2"}
    assert not repository.failed
    assert folder not in caplog.text


def test_a_folder_that_goes_while_models_are_looked_for_holds_none(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for going in ("others", "colours/3"):
        shutil.copytree(root / "colours" / "1", root / going / "1")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def just_gone(look: Callable[[str | Path], Iterable[str]], folder: str | Path) -> Iterable[str]:
        path = Path(folder)
        if path in (root / "others", root / "colours" / "3") and path.exists():
            path.rename(elsewhere / path.name)
        return look(folder)

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, partial(just_gone, getattr(os, name)))
    repository = load(root)
    assert {path.name for path in elsewhere.iterdir()} == {"others", "3"}
    assert (set(repository.models), repository.failed) == ({"colours"}, {})


def test_what_a_failing_look_has_loaded_is_closed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, close = list[Engine](), Mock()
    monkeypatch.setattr(Engine, "close", close)

    def open_one(metadata: ModelMetadata, files: Mapping[Precision, Path]) -> Engine:
        if opened:
            raise MemoryError
        opened.append(open_engine(metadata, files))
        return opened[0]

    with pytest.raises(MemoryError):
        ModelRepository(root, "colours", open_one)
    close.assert_called_once_with()


def in_place_of_metadata(folder: Path) -> None:
    (folder / "metadata.json").unlink()
    (folder / "metadata.json").mkdir()


@pytest.mark.parametrize(
    ("inflict", "reason"),
    [
        (damage_model, "model.onnx is not the file that was exported"),
        (in_place_of_metadata, "a file of it can't be read: Is a directory"),
    ],
)
def test_a_damaged_version_does_not_serve_and_says_why(
    inflict: Callable[[Path], object], reason: str, root: Path
) -> None:
    inflict(root / "colours" / "2")
    repository = load(root)
    assert repository.active_version("colours") == "1"
    told = repository.failed["colours", "2"]
    assert reason in told
    assert str(root) not in told  # it is told to everybody


def test_without_the_default_model_there_is_no_start(root: Path) -> None:
    with pytest.raises(StartupError, match="shapes can't be served"):
        load(root, default="shapes")


def test_a_damaged_default_model_stops_the_start_with_its_reason(root: Path) -> None:
    shutil.rmtree(root / "colours" / "2")
    damage_model(root / "colours" / "1")
    with pytest.raises(StartupError, match=r"model\.onnx is not the file that was exported"):
        load(root)
