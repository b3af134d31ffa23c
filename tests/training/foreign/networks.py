"""Small networks as others would bring them: they name the strongest colour of an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LABELS = ("red", "green", "blue")
SIZE = 16
LOUDNESS = 6.0  # logits are the mean of each channel, so many times


def network(
    path: Path,
    *,
    shape: Sequence[int | str] = ("N", 3, SIZE, SIZE),
    end: Sequence[onnx.NodeProto] = (),
    kind: int = TensorProto.FLOAT,
    opset: int = 17,
    inputs: int = 1,
) -> Path:
    """Writes one; `end` are nodes that make `output` of `logits`, which are it otherwise."""
    channels_first = shape[1] == 3
    nodes = [
        helper.make_node("Transpose", ["input"], ["channels"], perm=[0, 1, 2, 3] if channels_first else [0, 3, 1, 2]),
        helper.make_node("Conv", ["channels", "filters"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix"], ["logits"]),
        *end,
    ]
    constants = [
        numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "filters"),
        numpy_helper.from_array(LOUDNESS * np.eye(3, dtype=np.float32), "matrix"),
        numpy_helper.from_array(np.array([1, -1], np.int64), "one row"),
    ]
    taken = [helper.make_tensor_value_info("input", kind, list(shape))]
    taken += [helper.make_tensor_value_info(f"more {number}", kind, list(shape)) for number in range(1, inputs)]
    given = helper.make_tensor_value_info("output" if end else "logits", TensorProto.FLOAT, [shape[0], 3])
    graph = helper.make_graph(nodes, "foreign", taken, [given], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save_model(model, str(path))
    return path


def softmax(kind: str = "Softmax") -> list[onnx.NodeProto]:
    return [helper.make_node(kind, ["logits"], ["output"], axis=1)]


def by_hand() -> list[onnx.NodeProto]:
    """Probabilities, but not by a softmax."""
    return [
        helper.make_node("Exp", ["logits"], ["powers"]),
        helper.make_node("ReduceSum", ["powers"], ["sum"]),  # of all images at once: for one at a time
        helper.make_node("Div", ["powers", "sum"], ["output"]),
    ]


def compared() -> list[onnx.NodeProto]:
    """What it says of an image depends on the others."""
    return [
        helper.make_node("ReduceMean", ["logits"], ["mean"], axes=[0]),
        helper.make_node("Sub", ["logits", "mean"], ["output"]),
    ]


def frozen() -> list[onnx.NodeProto]:
    """One image at a time, by the graph itself."""
    return [helper.make_node("Reshape", ["logits", "one row"], ["output"])]


def merged() -> list[onnx.NodeProto]:
    """One image at a time: it takes those of a batch for parts of one."""
    return [helper.make_node("ReduceMean", ["logits"], ["output"], axes=[0])]


def noisy() -> list[onnx.NodeProto]:
    """What it says of an image is another thing each time."""
    return [
        helper.make_node("RandomNormalLike", ["logits"], ["noise"]),
        helper.make_node("Add", ["logits", "noise"], ["output"]),
    ]


def counted() -> list[onnx.NodeProto]:
    """Its own number of images is asked for, and what has a row for each is made: as exporters leave it."""
    return [
        helper.make_node("Shape", ["logits"], ["shape"]),
        helper.make_node("Constant", [], ["first"], value_ints=[0]),
        helper.make_node("Constant", [], ["rest"], value_ints=[-1]),
        helper.make_node("Constant", [], ["nothing"], value_floats=[0.0, 0.0, 0.0]),
        helper.make_node("Gather", ["shape", "first"], ["images"]),
        helper.make_node("Concat", ["images", "rest"], ["rows"], axis=0),
        helper.make_node("Expand", ["nothing", "shape"], ["nothings"]),
        helper.make_node("Reshape", ["logits", "rows"], ["reshaped"]),
        helper.make_node("Add", ["reshaped", "nothings"], ["output"]),
    ]
