"""Exported fp32 file → its stages, and a file beside it that makes them visible.

That file is a piece of a model: after the exported one it makes a model with more outputs, since protobuf reads
messages that follow each other as one ("Last One Wins" in its encoding guide) and appends what is repeated. So what
takes a kilobyte need not take all the weights again, and the file that serves stays as fast as it is: a runtime can't
merge a convolution with the ReLU behind it when somebody asks what is between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx

from service.metadata import FileRecord, Stage, StageKind, Stages

NAME = "model.stages.onnx"
KINDS: dict[str, tuple[str, StageKind]] = {  # operator → what its stages are called, numbered, and their kind
    "Conv": ("conv", "convolution"),
    "Relu": ("relu", "activation"),
    "Gelu": ("gelu", "activation"),
    "MaxPool": ("pool", "pooling"),
    "AveragePool": ("mean", "pooling"),
    "GlobalAveragePool": ("mean", "pooling"),
}
IMAGE_RANK = 4  # (N, C, H, W): what dense layers make has no places that could be shown


def write_stages(model_file: Path) -> Stages | None:
    """Write the file that shows the stages of `model_file` beside it; None, and no file, where it has none."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(model_file)).graph
    types = {value.name: value for value in graph.value_info}
    stages = tuple(_stages(graph, types))
    if not stages:
        return None
    more = onnx.ModelProto(graph=onnx.GraphProto(output=[_output(types[stage.tensor]) for stage in stages]))
    path = model_file.with_name(NAME)
    path.write_bytes(more.SerializeToString(deterministic=True))
    return Stages(file=FileRecord.of(path), shown=stages)


def _stages(graph: onnx.GraphProto, types: dict[str, onnx.ValueInfoProto]) -> Iterator[Stage]:
    """In the order in which they run."""
    numbers = Counter[str]()
    for node in graph.node:
        tensor = node.output[0]
        if node.op_type in KINDS and tensor in types and len(types[tensor].type.tensor_type.shape.dim) == IMAGE_RANK:
            name, kind = KINDS[node.op_type]
            numbers[name] += 1
            yield Stage(name=f"{name}{numbers[name]}", kind=kind, tensor=tensor)


def _output(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto(name=value.name, type=value.type)
