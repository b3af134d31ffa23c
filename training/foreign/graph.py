"""Somebody else's ONNX file → the network in it, and what is known of that.

It takes one float32 tensor of images, (N, 3, H, W) or (N, H, W, 3), and its first output are logits or probabilities,
(N, classes). What is otherwise raises `ExportError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, shape_inference

from service.metadata import INPUT, OUTPUT
from training.errors import ExportError
from training.onnx_graph import LOGITS, open_onnx

OLDEST_OPSET = 11
SOFTMAXES = {"Softmax", "LogSoftmax"}
SIGMOIDS = {"Sigmoid", "HardSigmoid"}
KEEPING = {"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}  # values, that is
LAST_AXIS_OPSET = 13  # from which on a softmax that names no axis is one of the last; before, of all but the first
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
OURS = {INPUT, OUTPUT, LOGITS}  # tensors that the file will have of ours
PREFIX = "convoy_foreign_"  # of its own that are called so
FLOAT32 = "convoy_float32"  # the output of a network that gives others
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Foreign:
    """The network as it came, less a softmax at its end; what is known of it."""

    model: onnx.ModelProto
    input: str
    channels_first: bool
    height: int
    width: int
    output: str  # logits, or probabilities if they are computed in another way than by a softmax

    def run(self, values: Array) -> Array:
        """The output (N, classes) for float32 (N, H, W, 3), one image at a time: its batch size may be fixed."""
        compute = self.tensors([self.output])
        parts = [compute(values[i : i + 1])[0] for i in range(len(values))]
        if {(len(part.shape), *part.shape[:1]) for part in parts} != {(2, 1)}:
            raise ExportError(
                f"The network's first output has the shape {parts[0].shape}, not (N, classes); export it again with "
                "its logits or probabilities as the first."
            )
        return np.concatenate(parts).astype(np.float32)

    def tensors(self, names: Sequence[str]) -> Callable[[Array], list[npt.NDArray[np.generic]]]:
        """A function of float32 (N, H, W, 3) that gives the values of the tensors `names` within the network."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        with _as_export_error():
            session = open_onnx(model.SerializeToString())  # as what is made of it: it may compute in integers already

        def compute(values: Array) -> list[npt.NDArray[np.generic]]:
            given = values.transpose(0, 3, 1, 2) if self.channels_first else values
            with _as_export_error():
                computed: list[npt.NDArray[np.generic]] = session.run(list(names), {self.input: given})
                return computed

        return compute


@contextmanager
def _as_export_error() -> Iterator[None]:
    """What ONNX Runtime can't do, as `ExportError`."""
    try:
        yield
    except Exception as exc:  # ONNX Runtime's own kinds are many, and private
        raise ExportError(f"ONNX Runtime can't run the network: {_first_line(exc)}") from exc


def read(path: Path, size: int | None = None) -> Foreign:
    """The network in an ONNX file; `size` is that of its images where the file leaves it open."""
    try:
        model = onnx.load(path)
        opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
        if 0 < opset < OLDEST_OPSET:
            raise ExportError(f"{path} has opset {opset}; export the network again with {OLDEST_OPSET} or newer.")
        onnx.checker.check_model(model)
    except FileNotFoundError as exc:
        raise ExportError(f"There is no file {path}.") from exc
    except ExportError:
        raise
    except Exception as exc:  # of protobuf, of the checker
        raise ExportError(f"{path} is no valid ONNX file: {_first_line(exc)}") from exc
    graph = model.graph
    taken = _input(path, graph)
    if not graph.output:
        raise ExportError(f"{path} has no output; export the network again with its logits or probabilities as one.")
    if graph.output[0].type.tensor_type.elem_type not in FLOATS:  # a label, say, which some exporters put first
        raise ExportError(
            f"The first output of {path} is {_type_and_shape(graph.output[0])}; export the network again with its "
            "logits or probabilities as the first."
        )
    _check_exclusive(path, graph)
    _rename(graph)
    first, *_ = (dimension.dim_value for dimension in taken.type.tensor_type.shape.dim[1:])
    channels_first = first == 3
    height, width = _sizes(path, taken, channels_first=channels_first, size=size)
    taken.type.tensor_type.shape.dim[0].dim_param = "batch"
    output = _in_32_bits(graph, _without_softmax(graph, opset))
    del graph.output[1:], graph.value_info[:]  # other outputs; and shapes, which may have a batch size in them
    graph.output[0].CopyFrom(helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", None]))
    return Foreign(model, taken.name, channels_first, height, width, output)


def _input(path: Path, graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) == 1 and inputs[0].type.tensor_type.elem_type == TensorProto.FLOAT:
        dimensions = [dimension.dim_value for dimension in inputs[0].type.tensor_type.shape.dim]
        if len(dimensions) == 4 and 3 in dimensions[1::2]:
            return cast(onnx.ValueInfoProto, inputs[0])
    told = ", ".join(f"{value.name} {_type_and_shape(value)}" for value in inputs) or "none"
    raise ExportError(
        f"{path} has the inputs {told}; one is needed, float32 images (N, 3, height, width) or (N, height, width, 3)."
    )


def _check_exclusive(path: Path, graph: onnx.GraphProto) -> None:
    """Raise `ExportError` where the first output has a probability for each class by itself, and is no logits."""
    node = _maker(graph, graph.output[0].name)
    while node and node.op_type in KEEPING:
        node = _maker(graph, node.input[0])
    if node and node.op_type in SIGMOIDS:
        raise ExportError(
            f"The first output of {path} is that of a {node.op_type}, which judges each class by itself; here classes "
            "exclude one another, and their probabilities sum to 1. If they do so in this network too, export it "
            f"again with its logits, what the {node.op_type} takes, as the first output, one for each class."
        )


def _maker(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    """The node that the tensor `name` comes out of; constants and inputs come out of none."""
    return next((node for node in graph.node if name in node.output), None)


def _rename(graph: onnx.GraphProto) -> None:
    """Give tensors that are called as ours will be other names, in graphs within it too."""
    tensors = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for tensor in (*tensors, *(sparse.values for sparse in graph.sparse_initializer)):
        tensor.name = _renamed(tensor.name)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = map(_renamed, names)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename(attribute.g)


def _renamed(name: str) -> str:
    return PREFIX + name if name in OURS else name


def _type_and_shape(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dimensions = (str(dimension.dim_value or dimension.dim_param or "?") for dimension in tensor.shape.dim)
    return f"{TensorProto.DataType.Name(tensor.elem_type).lower()} ({', '.join(dimensions)})"


def _sizes(path: Path, taken: onnx.ValueInfoProto, *, channels_first: bool, size: int | None) -> tuple[int, int]:
    """Height and width, which the input has from now on."""
    shape = taken.type.tensor_type.shape.dim
    for dimension in shape:
        if dimension.dim_value < 0:  # some exporters' word for any size
            dimension.Clear()
    dimensions = shape[2:] if channels_first else shape[1:3]
    for dimension in dimensions:
        if size and dimension.dim_value not in (0, size):
            raise ExportError(
                f"{path} takes images of {_type_and_shape(taken)}, not of {size} × {size}; leave out --size."
            )
        if not size and not dimension.dim_value:
            raise ExportError(
                f"{path} takes images of any size, {_type_and_shape(taken)}; say with --size what it was trained on."
            )
        dimension.dim_value = dimension.dim_value or size or 0
    height, width = (dimension.dim_value for dimension in dimensions)
    return height, width


def _without_softmax(graph: onnx.GraphProto, opset: int) -> str:
    """The tensor that a softmax of the classes at the end is made of, and without one, the first output.

    The softmax is taken away, unless other outputs are made of it: nobody asks for them, nor then for it.
    """
    output = str(graph.output[0].name)
    last = _maker(graph, output)
    if last is None or last.op_type not in SOFTMAXES:
        return output
    axis = next((each.i for each in last.attribute if each.name == "axis"), 1 if opset < LAST_AXIS_OPSET else -1)
    if axis not in (1, -1):  # one of all images together is no part of the network's answer to one
        return output
    if not any(output in node.input for node in graph.node):
        graph.node.remove(last)
    return str(last.input[0])


def _in_32_bits(graph: onnx.GraphProto, output: str) -> str:
    """`output`, which is of the type of the first output, as float32: what comes after it computes in that."""
    if graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT:
        return output
    graph.node.append(helper.make_node("Cast", [output], [FLOAT32], FLOAT32, to=TensorProto.FLOAT))
    return FLOAT32


def parameters(foreign: Foreign) -> int:
    """How many floating-point constants it has."""
    kinds = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
    return sum(math.prod(tensor.dims) for tensor in foreign.model.graph.initializer if tensor.data_type in kinds)


def count_macs(foreign: Foreign) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image, by the graph's shapes."""
    model = onnx.ModelProto()
    model.CopyFrom(foreign.model)
    (taken,) = (value for value in model.graph.input if value.name == foreign.input)
    taken.type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    } | {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":  # each output value: the filter's inputs × its height × its width
            total += math.prod(shapes.get(node.output[0], [0])) * math.prod(shapes.get(node.input[1], [0])[1:])
        elif node.op_type in {"Gemm", "MatMul"}:
            left = shapes.get(node.input[0]) or [0, 0]  # of a tensor of any rank no dimension is known
            transposed = any(each.name == "transA" and each.i for each in node.attribute)
            total += math.prod(shapes.get(node.output[0], [0])) * (left[-2] if transposed else left[-1])
    return total


def _first_line(exc: Exception) -> str:
    return str(exc).strip().partition("\n")[0]
