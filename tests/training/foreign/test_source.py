"""What comes with a network from elsewhere: labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.foreign.networks import LABELS, SIZE, network
from training.errors import ExportError
from training.foreign.graph import read
from training.foreign.source import Source, read_labels
from training.foreign.wrapping import Normalisation


@pytest.mark.parametrize("text", ["", "one\n", "one\ntwo\none\n", b"\xff\xfe\x00"])
def test_labels_that_are_none_are_told(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ExportError, match=r"labels.txt (must name|can't be read)"):
        read_labels(path)


def test_labels_of_any_system_are_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffhéron\r\n cat \r\n\r\n".encode())
    assert read_labels(path) == ("héron", "cat")


def test_a_class_is_the_same_in_either_form_of_its_letters(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("he\u0301ron\ncat\n", encoding="utf-8")
    assert read_labels(path) == ("h\u00e9ron", "cat")
    path.write_text("he\u0301ron\nh\u00e9ron\n", encoding="utf-8")
    with pytest.raises(ExportError, match="none of them twice"):
        read_labels(path)


def test_pictures_are_made_for_square_images_only(tmp_path: Path) -> None:
    square = network(tmp_path / "a.onnx")
    assert Source(square, read(square), LABELS, Normalisation()).size == SIZE
    wide = network(tmp_path / "b.onnx", shape=("N", 3, SIZE, 2 * SIZE))
    with pytest.raises(ExportError, match="images of 32 × 16; with --data they must be square"):
        _ = Source(wide, read(wide), LABELS, Normalisation()).size
