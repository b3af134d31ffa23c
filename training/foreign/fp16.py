"""A network from elsewhere → the same in numbers of 16 bits, for GPUs, which are several times faster at those.

`onnxruntime.transformers.float16` changes the types; whether the network can live with them is asked here. fp16 ends at
65,504, and a CPU would not notice: it computes such a graph in 32 bits. What can't be made raises `ExportError`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from training.errors import ExportError
from training.foreign.graph import Array, Foreign

LARGEST = float(np.finfo(np.float16).max)
ROOM = 2  # times what was seen must fit: other images may have more
TRIAL = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"


def halved(foreign: Foreign, values: Array) -> Foreign:
    """`foreign` in 16 bits, its input and output in 32 as before; `values` (N, H, W, 3) are such as it takes."""
    largest = _largest(foreign, values)
    if not ROOM * largest <= LARGEST:  # `not <=`: a NaN is too large as well
        raise ExportError(
            f"No fp16 file can be made of the network: its numbers go up to {largest:,.0f}, and fp16 ends at 65,504."
        )
    model = onnx.ModelProto()
    model.CopyFrom(foreign.model)
    for place, node in enumerate(model.graph.node):
        node.name = node.name or f"convoy_node_{place}"
    try:
        converted = convert_float_to_float16(model, keep_io_types=True, node_block_list=list(_left(model.graph)))
        made = OnnxModel(converted)
        made.topological_sort()
    except Exception as exc:  # of graphs that onnxruntime does not expect
        raise ExportError(f"No fp16 file can be made of the network: {exc}") from exc
    _try(made.model)
    return replace(foreign, model=made.model)


def _largest(foreign: Foreign, values: Array) -> float:
    """The largest magnitude of all numbers that the network computes with."""
    graph = foreign.model.graph
    compute = foreign.tensors([name for node in graph.node for name in node.output if name])
    tensors = [numpy_helper.to_array(constant) for constant in graph.initializer]
    largest = [0.0]
    for i in range(len(values)):
        for computed in compute(values[i : i + 1]):
            tensors += computed if isinstance(computed, list) else [computed]  # the former is a sequence of some
        largest += [float(np.abs(tensor).max()) for tensor in tensors if tensor.dtype.kind == "f" and tensor.size]
        tensors.clear()  # those of one image at a time are enough
    return float(np.max(largest))


def _left(graph: onnx.GraphProto) -> Iterator[str]:
    """Transposes before a MatMul by a constant stay in 32 bits: a CPU's ONNX Runtime would crash (1.31 did)."""
    constants = {tensor.name for tensor in graph.initializer}
    multiplied = {node.input[0] for node in graph.node if node.op_type == "MatMul" and node.input[1] in constants}
    yield from (node.name for node in graph.node if node.op_type == "Transpose" and node.output[0] in multiplied)


def _try(model: onnx.ModelProto) -> None:
    """Open it in a process of its own, which a crash like the above would end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "made.onnx")
        onnx.save_model(model, str(path))
        tried = subprocess.run([sys.executable, "-c", TRIAL, str(path)], capture_output=True, text=True, check=False)
    if tried.returncode:
        crash = f"ONNX Runtime crashes on it (status {tried.returncode})"
        told = crash if tried.returncode < 0 else tried.stderr.strip().rpartition("\n")[2]
        raise ExportError(f"No fp16 file can be made of the network: {told}")
