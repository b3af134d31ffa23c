"""What comes with a network from elsewhere: labels."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

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


def apart(model: onnx.ModelProto, path: Path, data: str) -> Path:
    """`model` at `path`, its weights in another file."""
    path.parent.mkdir()
    onnx.save_model(model, str(path), save_as_external_data=True, location=data, size_threshold=0)
    return path


def test_weights_in_other_files_decide_the_digest(tmp_path: Path) -> None:
    sources = []
    for name, factor in (("one", 1), ("other", 2)):
        model = onnx.load(network(tmp_path / "whole.onnx"))
        for tensor in model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factor, tensor.name))
        path = apart(model, tmp_path / name / "net.onnx", "weights.bin")
        sources.append(Source(path, read(path), LABELS, Normalisation()))
    one, other = sources
    assert one.path.read_bytes() == other.path.read_bytes()
    assert one.digest != other.digest
    content = one.path.read_bytes() + one.path.with_name("weights.bin").read_bytes()
    assert one.digest == hashlib.sha256(content).hexdigest()
    assert [file.name for file in one.files] == ["net.onnx", "weights.bin"]


def test_weights_within_a_branch_may_be_in_another_file(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones(3, np.float32), "weights")
    given = [helper.make_tensor_value_info("given", TensorProto.FLOAT, [3])]
    branch = helper.make_graph([helper.make_node("Identity", ["weights"], ["given"])], "branch", [], given, [weights])
    node = helper.make_node("If", ["asked"], ["answer"], then_branch=branch, else_branch=branch)
    asked = [helper.make_tensor_value_info("asked", TensorProto.BOOL, [])]
    answer = [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [3])]
    model = helper.make_model(helper.make_graph([node], "graph", asked, answer))
    path = apart(model, tmp_path / "net" / "net.onnx", "weights.bin")
    source = Source(path, read(network(tmp_path / "other.onnx")), LABELS, Normalisation())
    assert [file.name for file in source.files] == ["net.onnx", "weights.bin"]


def test_a_file_that_holds_its_weights_is_known_by_its_own_digest(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx")
    source = Source(path, read(path), LABELS, Normalisation())
    assert source.files == (path,)
    assert source.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_pictures_are_made_for_square_images_only(tmp_path: Path) -> None:
    square = network(tmp_path / "a.onnx")
    assert Source(square, read(square), LABELS, Normalisation()).size == SIZE
    wide = network(tmp_path / "b.onnx", shape=("N", 3, SIZE, 2 * SIZE))
    with pytest.raises(ExportError, match="images of 32 × 16; with --data they must be square"):
        _ = Source(wide, read(wide), LABELS, Normalisation()).size
