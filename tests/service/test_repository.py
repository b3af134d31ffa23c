"""models/<name>/<version>/ → verified and loaded, or a reason why not."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from service.choices import Choice
from service.engine import Engine
from service.errors import ModelNotFound, StartupError
from service.metadata import FILE_NAME, FileRecord, ModelMetadata, Precision
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


def rewrite(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    document = json.loads((folder / FILE_NAME).read_text())
    change(document)
    (folder / FILE_NAME).write_text(json.dumps(document))


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


def test_choices_that_are_not_understood_keep_the_model_from_serving(root: Path) -> None:
    (root / "colours" / "serving.json").write_text("{")
    with pytest.raises(StartupError, match=r"version 2: serving\.json must be"):
        load(root)


def test_the_digest_is_the_files(root: Path) -> None:
    folder = root / "colours" / "1"
    assert load(root).get("colours", "1").identity.digest == f"sha256:{FileRecord.of(folder / 'model.onnx').sha256}"


@pytest.mark.parametrize(("name", "version"), [("shapes", None), ("colours", "3"), ("../colours", "1")])
def test_what_is_not_there_is_not_found(root: Path, name: str, version: str | None) -> None:
    with pytest.raises(ModelNotFound):
        load(root).get(name, version)


def damage_model(folder: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)


def change_golden(folder: Path, **others: np.ndarray) -> None:
    """Turn the probabilities round, and add those of other files."""
    with np.load(folder / "golden.npz") as arrays:
        changed = {"images": arrays["images"], "probabilities": arrays["probabilities"][::-1], **others}
    write_golden(folder, **changed)


def write_golden(folder: Path, **arrays: np.ndarray) -> None:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]  # none of them is called `allow_pickle`
    replace_golden(folder, stream.getvalue())


def one_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros((1, 3), np.float32))
    return stream.getvalue()


def replace_golden(folder: Path, content: bytes) -> None:
    (folder / "golden.npz").write_bytes(content)
    rewrite(folder, lambda d: d.update(golden=FileRecord.of(folder / "golden.npz").model_dump()))


def test_what_a_file_gave_at_export_counts_for_it_before_what_torch_gave(root: Path) -> None:
    folder = root / "colours" / "1"
    with np.load(folder / "golden.npz") as arrays:
        right = arrays["probabilities"]
    change_golden(folder, probabilities_fp32=right)
    assert load(root).get("colours", "1").identity.version == "1"


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

    def just_gone(look: Callable[[Path], Iterable[str]], folder: Path) -> Iterable[str]:
        if folder in (root / "others", root / "colours" / "3") and folder.exists():
            folder.rename(elsewhere / folder.name)
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


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (damage_model, "SHA-256 differs"),
    "a missing file": (lambda folder: (folder / "model.onnx").unlink(), "model.onnx is missing"),
    "missing golden samples": (lambda folder: (folder / "golden.npz").unlink(), "golden.npz is missing"),
    "other golden samples": (change_golden, "golden samples come out differently"),
    "no JSON": (lambda folder: (folder / FILE_NAME).write_text("{"), "metadata.json is no JSON"),
    "a label that is no text": (
        lambda folder: rewrite(folder, lambda d: d.update(labels=[1, "green", "blue"])),
        "metadata.json is not as it should be at labels.0; the log says why",
    ),
    "no fp32 file": (
        lambda folder: rewrite(folder, lambda d: d.update(files={})),
        "metadata.json is not as it should be: files must hold at least the fp32 model",
    ),
    "a card in another encoding": (
        lambda folder: (folder / "MODEL_CARD.md").write_bytes(b"caf\xe9"),
        "MODEL_CARD.md is not UTF-8 text; save it as that",
    ),
    "golden samples without pictures": (
        lambda folder: write_golden(folder, probabilities=np.zeros((1, 3), np.float32)),
        "golden.npz has no images and probabilities; export the model again",
    ),
    "golden samples that are code": (
        lambda folder: change_golden(folder, images=np.array([{}], object)),
        "golden.npz has no images and probabilities",
    ),
    "metadata that is a list": (
        lambda folder: (folder / FILE_NAME).write_text("[]"),
        "metadata.json is not as it should be; the log says why",
    ),
    "cut-off golden samples": (
        lambda folder: replace_golden(folder, (folder / "golden.npz").read_bytes()[:100]),
        "golden.npz has no images and probabilities",
    ),
    "one array for golden samples": (
        lambda folder: replace_golden(folder, one_array()),
        "golden.npz has no images and probabilities",
    ),
    "golden samples of one dimension": (
        lambda folder: write_golden(folder, images=np.zeros((1, 8, 8, 3), np.uint8), probabilities=np.zeros(3)),
        "golden samples are of the shape (3,), the model's answers (1, 3)",
    ),
    "a later schema": (lambda folder: rewrite(folder, lambda d: d.update(schema_version=2)), "schema_version"),
    "another version's metadata": (
        lambda folder: rewrite(folder, lambda d: d.update(version="7")),
        "says it is colours/7",
    ),
    "an unknown resize policy": (
        lambda folder: rewrite(folder, lambda d: d.update(input={"height": 8, "width": 8, "resize_policy": "guess"})),
        "resize policy guess",
    ),
    "a folder in a file's place": (in_place_of_metadata, "a file of it can't be read: Is a directory"),
    "a path out of the folder": (
        lambda folder: rewrite(folder, lambda d: d["golden"].update(name="../../x")),  # type: ignore[attr-defined]
        "golden.name",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_version_does_not_serve_and_says_why(root: Path, damage: str) -> None:
    inflict, reason = DAMAGES[damage]
    inflict(root / "colours" / "2")
    repository = load(root)
    assert repository.active_version("colours") == "1"
    told = repository.failed["colours", "2"]
    assert reason in told
    assert str(root) not in told  # it is told to everybody
    assert not any(words in told for words in ("pydantic", "Input should", "codec", "archive", "error"))  # libraries'


def test_without_the_default_model_there_is_no_start(root: Path) -> None:
    with pytest.raises(StartupError, match="shapes can't be served"):
        load(root, default="shapes")


def test_a_damaged_default_model_stops_the_start_with_its_reason(root: Path) -> None:
    shutil.rmtree(root / "colours" / "2")
    damage_model(root / "colours" / "1")
    with pytest.raises(StartupError, match=r"model\.onnx is not the file that was exported"):
        load(root)
