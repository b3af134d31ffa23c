"""A network from elsewhere in numbers of 16 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.training.foreign.networks import SIZE, network
from training.errors import ExportError
from training.foreign import fp16
from training.foreign.fp16 import halved
from training.foreign.graph import Foreign, read

VALUES = np.random.default_rng(0).normal(size=(5, SIZE, SIZE, 3)).astype(np.float32)


def transposed() -> list[onnx.NodeProto]:
    """What ends a process whose ONNX Runtime opens it in 16 bits on a CPU."""
    return [
        helper.make_node("Constant", [], ["places"], value_ints=[1]),
        helper.make_node("Unsqueeze", ["logits", "places"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["columns"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["columns", "matrix"], ["product"]),
        helper.make_node("ReduceMean", ["product"], ["output"], axes=[0], keepdims=0),
    ]


def loud(path: Path, factor: float) -> Foreign:
    """Its numbers are up to six times so large on the way, and as ever at the end."""
    end = [
        helper.make_node("Mul", ["logits", "factor"], ["much"]),
        helper.make_node("Div", ["much", "factor"], ["output"]),
    ]
    model = onnx.load(network(path, end=end))
    model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "factor"))
    onnx.save_model(model, str(path))
    return read(path)


@pytest.mark.parametrize("end", [[], transposed()], ids=["plain", "transposed"])
def test_it_says_nearly_what_the_network_says_and_has_weights_of_16_bits(
    tmp_path: Path, end: list[onnx.NodeProto]
) -> None:
    foreign = read(network(tmp_path / "a.onnx", end=end))
    half = halved(foreign, VALUES)
    assert 0 < np.abs(half.run(VALUES) - foreign.run(VALUES)).max() < 0.01
    weights = {tensor.name: tensor.data_type for tensor in half.model.graph.initializer}
    assert weights["filters"] == weights["matrix"] == TensorProto.FLOAT16


def test_nodes_come_in_the_order_in_which_they_run(tmp_path: Path) -> None:
    half = halved(read(network(tmp_path / "a.onnx")), VALUES)
    onnx.checker.check_model(half.model, full_check=True)


@pytest.mark.parametrize(("factor", "fits"), [(1e3, True), (1e6, False)])
def test_numbers_beyond_its_range_are_told(tmp_path: Path, factor: float, fits: bool) -> None:
    """A CPU would give the right answer for both: it computes in 32 bits."""
    foreign = loud(tmp_path / "a.onnx", factor)
    if fits:
        assert np.allclose(halved(foreign, VALUES).run(VALUES), foreign.run(VALUES), atol=0.01)
    else:
        with pytest.raises(ExportError, match=r"its numbers go up to [\d,]+, and fp16 ends at 65,504"):
            halved(foreign, VALUES)


def test_weights_beyond_its_range_are_told(tmp_path: Path) -> None:
    """The conversion would make them as large as they can be, and say nothing."""
    foreign = loud(tmp_path / "a.onnx", 1e6)
    with pytest.raises(ExportError, match="its numbers go up to 1,000,000"):
        halved(foreign, np.zeros_like(VALUES))


def test_numbers_in_a_sequence_of_tensors_count(tmp_path: Path) -> None:
    end = [
        helper.make_node("Constant", [], ["last"], value_int=0),
        helper.make_node("SplitToSequence", ["logits"], ["parts"], axis=0),
        helper.make_node("SequenceAt", ["parts", "last"], ["part"]),
        helper.make_node("Identity", ["part"], ["output"]),
    ]
    with pytest.raises(ExportError, match="its numbers go up to"):
        halved(read(network(tmp_path / "a.onnx", end=end)), VALUES * 100_000)


def test_numbers_that_are_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="its numbers go up to nan"):
        halved(read(network(tmp_path / "a.onnx")), np.full_like(VALUES, np.nan))


@pytest.mark.parametrize(
    ("trial", "told"),
    [
        ("import sys; sys.exit('first line\\nan odd operator')", "of the network: an odd operator"),
        (
            "import os, sys; print('a warning', file=sys.stderr, flush=True); os.abort()",
            r"ONNX Runtime crashes on it \(status -6\)",
        ),
    ],
)
def test_what_can_not_be_opened_is_told_and_what_crashes_ends_another_process(
    tmp_path: Path, trial: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fp16, "TRIAL", trial)
    with pytest.raises(ExportError, match=told):
        halved(read(network(tmp_path / "a.onnx")), VALUES)
