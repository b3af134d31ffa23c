"""Shapes that a network works out while it runs → shapes that stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.training.foreign.networks import SIZE, counted, network
from training.foreign.graph import Foreign, read
from training.foreign.shapes import settled, works_out_shapes

VALUES = np.random.default_rng(0).normal(size=(7, SIZE, SIZE, 3)).astype(np.float32)


def kinds(foreign: Foreign) -> list[str]:
    return [node.op_type for node in foreign.model.graph.node]


def constant(name: str, values: Sequence[int]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value_ints=values)


def flattened() -> list[onnx.NodeProto]:
    """`x.view(len(x), -1)` of what is there before the matrix, once more."""
    return [
        helper.make_node("Shape", ["features"], ["shape"]),
        constant("zero", [0]),
        constant("tall", [-1, 3]),
        helper.make_node("Gather", ["shape", "zero"], ["images"]),
        constant("side", [SIZE * SIZE, 3]),
        helper.make_node("Concat", ["images", "side"], ["rows"], axis=0),
        helper.make_node("Transpose", ["features"], ["turned"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["turned", "rows"], ["pixels"]),
        helper.make_node("ReduceMean", ["pixels"], ["output"], axes=[1], keepdims=0),
    ]


def cropped() -> list[onnx.NodeProto]:
    """The upper half of the height, whatever that is: the same for any number of images."""
    return [
        helper.make_node("Shape", ["features"], ["shape"]),
        constant("two", [2]),
        constant("none", [0]),
        helper.make_node("Gather", ["shape", "two"], ["height"]),
        helper.make_node("Div", ["height", "two"], ["half"]),
        helper.make_node("Slice", ["features", "none", "half", "two"], ["upper"]),
        helper.make_node("ReduceMean", ["upper"], ["output"], axes=[2, 3], keepdims=0),
    ]


def summed() -> list[onnx.NodeProto]:
    """Divided by how many images there are: that can't be told beforehand."""
    return [
        helper.make_node("Shape", ["logits"], ["shape"]),
        constant("zero", [0]),
        helper.make_node("Gather", ["shape", "zero"], ["images"]),
        helper.make_node("Cast", ["images"], ["count"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Div", ["logits", "count"], ["output"]),
    ]


def chosen() -> list[onnx.NodeProto]:
    """A graph within the graph takes a shape from outside."""
    branch = helper.make_graph(
        [helper.make_node("Reshape", ["logits", "shape"], ["same"])], "branch", [],
        [helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    return [
        helper.make_node("Shape", ["logits"], ["shape"]),
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("yes", onnx.TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["yes"], ["output"], then_branch=branch, else_branch=branch),
    ]


def doubled() -> list[onnx.NodeProto]:
    """A graph within the graph takes an image's values from outside."""
    branch = helper.make_graph(
        [helper.make_node("Identity", ["logits"], ["same"])], "branch", [],
        [helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    return [
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("yes", onnx.TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["yes"], ["values"], then_branch=branch, else_branch=branch),
        helper.make_node("Shape", ["values"], ["shape"]),
        helper.make_node("Reshape", ["values", "shape"], ["again"]),
        helper.make_node("Add", ["logits", "again"], ["output"]),
    ]


@pytest.mark.parametrize(
    "end", [flattened(), cropped(), counted(), doubled()], ids=["flattened", "cropped", "counted", "doubled"]
)
@pytest.mark.parametrize("shape", [("N", 3, SIZE, SIZE), ("N", SIZE, SIZE, 3)], ids=["channels first", "last"])
def test_none_is_left_and_the_network_says_the_same(
    tmp_path: Path, end: list[onnx.NodeProto], shape: Sequence[int | str]
) -> None:
    foreign = read(network(tmp_path / "a.onnx", shape=shape, end=end))
    assert works_out_shapes(foreign)
    known = settled(foreign)
    assert not works_out_shapes(known)
    assert not {"Gather", "Concat", "Expand"} & set(kinds(known))
    used = {name for node in known.model.graph.node for name in node.input}
    assert {tensor.name for tensor in known.model.graph.initializer} <= used
    onnx.checker.check_model(known.model, full_check=True)
    (together,) = known.tensors([known.output])(VALUES)
    assert np.array_equal(together, foreign.tensors([foreign.output])(VALUES)[0])


def test_a_network_that_works_none_out_is_left_as_it_is(tmp_path: Path) -> None:
    foreign = read(network(tmp_path / "a.onnx"))
    assert settled(foreign) is foreign


@pytest.mark.parametrize("end", [summed(), chosen()], ids=["a number", "a graph within"])
def test_what_can_not_be_told_is_left(tmp_path: Path, end: list[onnx.NodeProto]) -> None:
    foreign = read(network(tmp_path / "a.onnx", end=end))
    known = settled(foreign)
    assert works_out_shapes(known)
    (together,) = known.tensors([known.output])(VALUES)
    assert np.array_equal(together, foreign.tensors([foreign.output])(VALUES)[0])


def test_a_network_for_one_image_at_a_time_is_left_to_others_to_refuse(tmp_path: Path) -> None:
    one = [
        constant("a row", [1, 3]),
        helper.make_node("Reshape", ["logits", "a row"], ["row"]),
        helper.make_node("Shape", ["row"], ["shape"]),
        helper.make_node("Reshape", ["row", "shape"], ["output"]),
    ]
    foreign = read(network(tmp_path / "a.onnx", shape=(1, 3, SIZE, SIZE), end=one))
    assert settled(foreign) is foreign
