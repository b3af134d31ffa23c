"""A network that works out the shapes of its tensors while it runs → the same with those shapes written into it.

Exporters leave that in, mostly to keep the batch size open. ONNX Runtime does such work on the CPU, so that the CUDA
provider never has the whole network, which is what the service asks of it (`service.providers`). With images of one
size nothing but the batch size is open: what is the same for one image and for two is a constant, and where the batch
size stands in the shape of a Reshape, or decides how often a tensor is repeated, it can be told without being known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from training.errors import ExportError
from training.foreign.graph import Foreign

SOURCES = {"Shape", "Size"}
NAMES = "convoy_shape_"  # what is put in begins with it
CORNER = {"from": [0, 0, 0], "to": [1, 1, 1], "axes": [1, 2, 3]}  # of an image: one number
Values = npt.NDArray[np.generic]


def settled(foreign: Foreign) -> Foreign:
    """The same function, with as few shapes left to be worked out as can be."""
    model = onnx.ModelProto()
    model.CopyFrom(foreign.model)
    computed = _computed(model.graph)
    leaving = sorted(_leaving(model.graph, computed))
    reshaped = {node.output[0]: node for node in model.graph.node if _is_reshaped(node, computed)}
    if not leaving:
        return foreign
    images = np.zeros((2, foreign.height, foreign.width, 3), np.float32)
    try:
        compute = foreign.tensors([*leaving, *reshaped])
        values = dict(zip([*leaving, *reshaped], zip(compute(images[:1]), compute(images), strict=True), strict=True))
    except ExportError:  # it takes one image at a time, which others will say
        return foreign
    rewriting = _Rewriting(model.graph, foreign.input)
    for name, reshape in reshaped.items():
        rewriting.reshape(reshape, *values[name])
    for name in leaving:
        rewriting.settle(name, *values[name])
    rewriting.finish(computed)
    return replace(foreign, model=model)


def works_out_shapes(foreign: Foreign) -> bool:
    """Whether any of that is left."""
    return any(node.op_type in SOURCES for node in foreign.model.graph.node)


def _computed(graph: onnx.GraphProto) -> set[str]:
    """Tensors that depend on the shapes of others and on constants, but on no values of an image."""
    constants = {"", *(tensor.name for tensor in graph.initializer)}
    computed: set[str] = set()
    for node in graph.node:
        if node.op_type in SOURCES:
            computed.update(node.output)
        elif _within(node):  # which may take an image's values without saying so
            continue
        elif node.op_type == "Constant" or (node.input and constants.issuperset(node.input)):
            constants.update(node.output)
        elif node.input and (constants | computed).issuperset(node.input):
            computed.update(node.output)
    return computed


def _leaving(graph: onnx.GraphProto, computed: set[str]) -> set[str]:
    """Those of `computed` that are used where an image's values are."""
    used = (name for node in graph.node if not computed.issuperset(node.output) for name in _used(node))
    return computed.intersection(used)


def _used(node: onnx.NodeProto) -> Iterable[str]:
    """What a node takes, in graphs within it too."""
    yield from node.input
    for graph in _within(node):
        for inner in graph.node:
            yield from _used(inner)


def _within(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]


def _is_reshaped(node: onnx.NodeProto, computed: set[str]) -> bool:
    return node.op_type == "Reshape" and node.input[1] in computed and not computed.issuperset(node.output)


@dataclass
class _Rewriting:
    """A graph, and what is known of its shapes by having looked at one image and at two."""

    graph: onnx.GraphProto
    input: str
    constants: list[onnx.TensorProto] = field(default_factory=list)  # to be added to the graph, as are the nodes
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def reshape(self, node: onnx.NodeProto, one: Values, two: Values) -> None:
        """Write down what shape `node` makes; one number in it may be open, which it finds by itself."""
        open_places = [place for place, size in enumerate(one.shape) if two.shape[place] != size]
        if len(open_places) > 1:
            return
        shape = np.array(one.shape, np.int64)
        shape[open_places] = -1
        node.input[1] = f"{NAMES}of_{node.output[0]}"
        self.constants.append(numpy_helper.from_array(shape, node.input[1]))

    def settle(self, name: str, one: Values, two: Values) -> None:
        """Write down the tensor `name`, if it does not depend on how many images there are, or has a row for each."""
        if np.array_equal(one, two):
            self.constants.append(numpy_helper.from_array(one, name))
        elif one.dtype == np.float32 and one.shape[:1] == (1,) and np.array_equal(np.repeat(one, 2, 0), two):
            self._repeat(name, one)

    def _repeat(self, name: str, one: Values) -> None:
        """A tensor once for each image: its only row, and a zero of each of them added to it."""
        if not self.nodes:
            corner = [numpy_helper.from_array(np.array(values), NAMES + part) for part, values in CORNER.items()]
            nothing = numpy_helper.from_array(np.zeros((), np.float32), NAMES + "nothing")
            self.constants += [*corner, nothing]
            self.nodes += [
                helper.make_node("Slice", [self.input, *(tensor.name for tensor in corner)], [NAMES + "corner"]),
                helper.make_node("Mul", [NAMES + "corner", nothing.name], [NAMES + "zeros"]),
            ]
        shape = numpy_helper.from_array(np.array([-1] + [1] * (one.ndim - 1)), f"{NAMES}shape_{name}")
        self.constants += [shape, numpy_helper.from_array(one, f"{NAMES}row_{name}")]
        self.nodes += [
            helper.make_node("Reshape", [NAMES + "zeros", shape.name], [f"{NAMES}zeros_{name}"]),
            helper.make_node("Add", [f"{NAMES}row_{name}", f"{NAMES}zeros_{name}"], [name]),
        ]

    def finish(self, computed: set[str]) -> None:
        """Put it into the graph, and take out what nobody asks for any more."""
        made = {*(tensor.name for tensor in self.constants), *(name for node in self.nodes for name in node.output)}
        needed = {output.name for output in self.graph.output}
        kept: list[onnx.NodeProto] = []
        for node in reversed(self.graph.node):
            of_shapes = node.op_type == "Constant" or computed.issuperset(node.output)
            if of_shapes and not (needed - made).intersection(node.output):
                continue
            node.output[:] = [NAMES + "unused_" + name if name in made else name for name in node.output]
            needed.update(_used(node))
            kept.append(node)
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend([*self.nodes, *reversed(kept)])
        needed.update(name for node in self.nodes for name in node.input)
        before = {tensor.name for tensor in self.graph.initializer}
        constants = [tensor for tensor in (*self.graph.initializer, *self.constants) if tensor.name in needed]
        inputs = [value for value in self.graph.input if value.name in needed or value.name not in before]
        del self.graph.initializer[:], self.graph.input[:]
        self.graph.initializer.extend(constants)
        self.graph.input.extend(inputs)  # in old files constants are among them
