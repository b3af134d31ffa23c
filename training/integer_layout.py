"""An int8 graph → one that computes the same integers, laid out as ONNX Runtime's kernels read them fastest.

Those kernels hold channels last where ONNX says channels first: the runtime turns every operator round and inserts
transpositions, most of which undo each other. Nothing here changes a number that comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from training.onnx_graph import Array, change_constant

PIXELS = 4  # of a row that enter the first convolution together
CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def arrange(model: onnx.ModelProto) -> None:
    """Rearrange the graph of `model`, whose input is uint8 (N, H, W, C), in place."""
    _group_pixels(model.graph)
    del model.graph.value_info[:]  # shapes, some of which have changed
    _stay_channels_last(model.graph, _shapes(model))


def _group_pixels(graph: onnx.GraphProto) -> None:
    """Have the first convolution take four pixels of a row as one with four times the channels, and give four at once.

    Its inputs are gathered pixel by pixel, and three bytes take as long as many. The filters become 2.7 times as large
    by zeros, which costs less than that. Left as it is where the width is no multiple of four, or the convolution is
    padded, strided, dilated or too wide.
    """
    conv = next(node for node in graph.node if node.op_type == "Conv")
    attributes = {item.name: item for item in conv.attribute}
    height, width = attributes["kernel_shape"].ints
    rows, columns, channels = (dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim[1:])
    plain = all(step == 1 for name in ("strides", "dilations") for step in attributes[name].ints)
    if columns % PIXELS or width > PIXELS + 1 or not plain or any(attributes["pads"].ints):
        return
    makers = {name: node for node in graph.node for name in node.output}
    weights, bias = (makers[name] for name in conv.input[1:])
    filters = len(change_constant(graph, weights.input[0], _wide))
    for name in {*weights.input[1:], *bias.input}:
        change_constant(graph, name, lambda values: np.tile(values, PIXELS))
    attributes["kernel_shape"].ints[:] = (height, 2)
    attributes["pads"].ints[:] = (0, 0, 0, 1)  # beyond the last pixels there are none, and what is made there is cut

    entry = next(node for node in graph.node if graph.input[0].name in node.input)
    _before(graph, entry, "Reshape", _constant(graph, "groups", [0, rows, columns // PIXELS, PIXELS * channels]))
    last = next(node for node in graph.node if conv.output[0] in node.input)  # its quantisation
    last = _after(graph, last, "Transpose", perm=CHANNELS_LAST)
    single = _constant(graph, "single_pixels", [0, rows - height + 1, columns, filters // PIXELS])
    last = _after(graph, last, "Reshape", single)
    cut = (("cut_from", 0), ("cut_to", columns - width + 1), ("cut_axis", 2))
    last = _after(graph, last, "Slice", *(_constant(graph, name, [value]) for name, value in cut))
    _after(graph, last, "Transpose", perm=CHANNELS_FIRST)


def _wide(weights: Array) -> Array:
    """(O, C, KH, KW) → (4·O, 4·C, KH, 2): the filters at four places of a window of two groups, one after another."""
    outputs, channels, height, width = weights.shape
    windows = np.zeros((PIXELS, outputs, channels, height, 2 * PIXELS), weights.dtype)
    for place in range(PIXELS):
        windows[place, ..., place : place + width] = weights
    split = windows.reshape(PIXELS * outputs, channels, height, 2, PIXELS)
    return split.transpose(0, 4, 1, 2, 3).reshape(PIXELS * outputs, PIXELS * channels, height, 2)


def _stay_channels_last(graph: onnx.GraphProto, shapes: dict[str, list[int]]) -> None:
    """Where an image of one pixel becomes a row of numbers, or the other way round, say that it may be either way.

    By the runtime's reckoning a transposition of (N, C, 1, 1) costs as much as one of the large images that are pooled
    and added behind it, and so it leaves those where they are.
    """
    for node in list(graph.node):
        if node.op_type == "Reshape" and shapes[node.input[0]][2:] == [1, 1]:
            _before(graph, node, "Transpose", perm=CHANNELS_LAST)
        elif node.op_type == "Unsqueeze" and shapes[node.output[0]][2:] == [1, 1]:
            node.input[1] = _constant(graph, f"{node.output[0]}_axes", [1, 2])
            _after(graph, node, "Transpose", perm=CHANNELS_FIRST)


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """The dimensions of every tensor by name, 0 where one is not known."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    tensors = (*graph.input, *graph.value_info)
    return {tensor.name: [dim.dim_value for dim in tensor.type.tensor_type.shape.dim] for tensor in tensors}


def _before(
    graph: onnx.GraphProto, node: onnx.NodeProto, operator: str, *constants: str, **axes: Sequence[int]
) -> None:
    """Insert `operator` between `node` and its first input."""
    old, place = node.input[0], _place(graph, node.output[0])
    inner = f"{old}_after_{operator}"
    graph.node[place].input[0] = inner
    graph.node.insert(place, _node(operator, [old, *constants], inner, axes))


def _after(
    graph: onnx.GraphProto, node: onnx.NodeProto, operator: str, *constants: str, **axes: Sequence[int]
) -> onnx.NodeProto:
    """Insert `operator` between `node` and all that take its output; returns the new node."""
    output = node.output[0]
    place = _place(graph, output)
    inner = f"{output}_before_{operator}_{place}"
    graph.node[place].output[0] = inner
    graph.node.insert(place + 1, _node(operator, [inner, *constants], output, axes))
    inserted: onnx.NodeProto = graph.node[place + 1]
    return inserted


def _node(operator: str, inputs: Sequence[str], output: str, attributes: Mapping[str, Sequence[int]]) -> onnx.NodeProto:
    node = helper.make_node(operator, inputs, [output])
    node.attribute.extend(helper.make_attribute(name, list(value)) for name, value in attributes.items())
    return node


def _place(graph: onnx.GraphProto, output: str) -> int:
    return next(place for place, node in enumerate(graph.node) if output in node.output)


def _constant(graph: onnx.GraphProto, name: str, values: list[int]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name
