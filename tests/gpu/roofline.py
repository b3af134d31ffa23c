"""How fast the network could run here: its operations and bytes, against what this device was seen to do.

S. Williams et al., "Roofline: An Insightful Visual Performance Model for Multicore Architectures" (2009). Each layer's
input, weights and output are moved once; activation functions and casts ride along with what they follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, shape_inference

from service.metadata import Precision
from service.providers import PROVIDERS
from tests.gpu.report import Row
from tests.gpu.subject import Context, model_file, timed

MATRIX = {"cuda": 8192, "cpu": 512}
COPY_BYTES = {"cuda": 2 << 30, "cpu": 32 << 20}
COUNTED = {"Conv", "Gemm", "MatMul", "MaxPool", "Transpose"}  # what moves its data through memory of its own


class Work(NamedTuple):
    """What a batch of `images` asks for."""

    operations: float  # floating-point, a multiply-accumulate being two
    moved_bytes: float


def ceilings(context: Context) -> Iterator[Row]:
    """A large matrix product and a large copy, both through ONNX Runtime, on random numbers."""
    n, precision = MATRIX[context.device], "fp16" if context.device == "cuda" else "fp32"
    number = np.float16 if precision == "fp16" else np.float32
    random = np.random.default_rng(0)
    matrix = random.standard_normal((n, n), np.float32).astype(number)
    product = timed(_on_device(context, "MatMul", [matrix, matrix.T.copy()]), small=context.options.small)
    yield Row(
        "matrix product", 2 * n**3 / product.median_s / 1e12, "TFLOP/s", product.spread, note=f"{precision}, {n}²"
    )
    block = random.standard_normal((1 << 20,), np.float32)
    copied = np.tile(block, COPY_BYTES[context.device] // block.nbytes)
    copy = timed(_on_device(context, "Neg", [copied]), small=context.options.small)
    yield Row("copy", 2 * copied.nbytes / copy.median_s / 1e9, "GB/s", copy.spread, note="read and written")
    for name, size in (("1", 1), ("1024", 1024)):
        work = count(model_file(context, "fp16"), "fp16", size)
        yield Row(f"operations of {name}", work.operations / 1e9, "GFLOP")
        yield Row(f"bytes of {name}", work.moved_bytes / 1e6, "MB")


def _on_device(context: Context, operator: str, arrays: list[np.ndarray]):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """A call that applies `operator` to arrays on the device and waits for the end."""
    kind = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
    inputs = [helper.make_tensor_value_info(f"x{i}", kind, list(a.shape)) for i, a in enumerate(arrays)]
    output = helper.make_tensor_value_info("y", kind, list(arrays[0].shape))
    node = helper.make_node(operator, [value.name for value in inputs], ["y"])
    graph = helper.make_graph([node], operator, inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    provider = PROVIDERS[context.device]
    of = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=[(provider.name, dict(provider.options))], enable_fallback=False
    )
    binding = of.io_binding()
    for value, array in zip(inputs, arrays, strict=True):
        binding.bind_ortvalue_input(value.name, onnxruntime.OrtValue.ortvalue_from_numpy(array, context.device, 0))
    result = onnxruntime.OrtValue.ortvalue_from_shape_and_type(arrays[0].shape, arrays[0].dtype, context.device, 0)
    binding.bind_ortvalue_output("y", result)
    return lambda: of.run_with_iobinding(binding)


def count(file: Path, precision: Precision, images: int) -> Work:
    """Operations and bytes of a batch."""
    model = onnx.load(file)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: _shape(value) for value in (*graph.value_info, *graph.input, *graph.output)}
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    width = {TensorProto.UINT8: 1, TensorProto.FLOAT16: 2, TensorProto.FLOAT: 4}
    operations = moved = fixed = 0.0
    for node in graph.node:
        if node.op_type not in COUNTED:
            continue
        outputs = float(np.prod(shapes[node.output[0]]))
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            operations += 2 * outputs * float(np.prod(weights[node.input[1]][1:]))
        moved += outputs * width[kinds[node.output[0]]]
        inputs = [name for name in node.input if name in shapes and name not in weights]
        moved += sum(float(np.prod(shapes[name])) * width[kinds[name]] for name in inputs)
        fixed += sum(float(np.prod(weights[name])) for name in node.input if name in weights)
    return Work(operations * images, moved * images + fixed * (2 if precision == "fp16" else 4))


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]
