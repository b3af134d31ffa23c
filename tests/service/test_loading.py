"""A version's folder → a loaded model, or a reason why not."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.loading import OpenEngine, load_version, opener
from service.metadata import FILE_NAME, FileRecord
from service.prediction import ModelIdentity
from service.settings import Settings
from tests.conftest import COLOURS, SIZE, write_colour_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_colour_model(tmp_path / "colours" / "1")


@pytest.fixture
def open_engine(settings: Settings) -> OpenEngine:
    return opener(settings.model_copy(update={"max_batch_size": 4}), threads=1)


def test_a_version_that_is_as_exported_is_loaded(folder: Path, open_engine: OpenEngine) -> None:
    loaded = load_version(folder, open_engine)
    digest = f"sha256:{FileRecord.of(folder / 'model.onnx').sha256}"
    assert loaded.identity == ModelIdentity("colours", "1", digest, COLOURS)
    assert (loaded.canary.shape, loaded.card) == ((1, SIZE, SIZE, 3), "# colours\n")


def rewrite(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    document = json.loads((folder / FILE_NAME).read_text())
    change(document)
    (folder / FILE_NAME).write_text(json.dumps(document))


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


def test_what_a_file_gave_at_export_counts_for_it_before_what_torch_gave(folder: Path, open_engine: OpenEngine) -> None:
    with np.load(folder / "golden.npz") as arrays:
        right = arrays["probabilities"]
    change_golden(folder, probabilities_fp32=right)
    assert load_version(folder, open_engine).identity.version == "1"


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
    "golden samples that are one number": (
        lambda folder: change_golden(folder, images=np.array(3, np.uint8)),
        "golden.npz has no images and probabilities",
    ),
    "golden samples without any picture": (
        lambda folder: change_golden(folder, images=np.zeros((0, SIZE, SIZE, 3), np.uint8)),
        "golden.npz has no images and probabilities",
    ),
    "golden samples of another size": (
        lambda folder: change_golden(folder, images=np.zeros((4, SIZE, SIZE + 1, 3), np.uint8)),
        "golden.npz has no images and probabilities",
    ),
    "golden samples that are words": (
        lambda folder: change_golden(folder, probabilities=np.array([["red", "green", "blue"]] * 4)),
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
    "a path out of the folder": (
        lambda folder: rewrite(folder, lambda d: d["golden"].update(name="../../x")),  # type: ignore[attr-defined]
        "golden.name",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_version_is_not_loaded_and_says_why(damage: str, folder: Path, open_engine: OpenEngine) -> None:
    inflict, reason = DAMAGES[damage]
    inflict(folder)
    with pytest.raises(ValueError, match=re.escape(reason)) as raised:
        load_version(folder, open_engine)
    told = str(raised.value)
    assert str(folder) not in told  # it is told to everybody
    assert not any(words in told for words in ("pydantic", "Input should", "codec", "archive", "error"))  # libraries'
