"""A network from elsewhere → one that the service can run: a way in for pixels, and a way out for probabilities.

What the network itself does is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from service.metadata import INPUT, OUTPUT
from training.calibrate import Calibrator
from training.errors import ExportError
from training.foreign.graph import Array, Foreign
from training.onnx_graph import LOGITS
from training.onnx_nodes import Nodes

BEFORE, AFTER = "convoy_in_", "convoy_out_"  # names that no exporter gives
SMALLEST = 1e-30  # of a probability before its logarithm
SMALLEST_STD = 1e-6  # makes numbers up to a million of pixels: no network takes such


@dataclass(frozen=True)
class Normalisation:
    """Pixels, 0 … 1 for each channel → what the network takes: (pixel - mean) / std."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        """Raise `ExportError` for what is not of pixels from 0 to 1, or that nothing can be divided by."""
        if not all(abs(each) <= 1 for each in self.mean) or not all(SMALLEST_STD <= each <= 1 for each in self.std):
            raise ExportError(
                "--mean and --std are for pixels from 0 to 1: means from -1 to 1, deviations above 0 and up to 1. "
                "Divide values for 0…255 by 255."
            )

    def __call__(self, images: npt.NDArray[np.uint8]) -> Array:
        """uint8 (N, H, W, 3) → float32 (N, H, W, 3)."""
        values: Array = ((images / 255 - np.array(self.mean)) / np.array(self.std)).astype(np.float32)
        return values


def with_way_in(foreign: Foreign, normalisation: Normalisation) -> onnx.ModelProto:
    """uint8 `image` (N, H, W, 3) → the network's output."""
    model = onnx.ModelProto()
    model.CopyFrom(foreign.model)
    graph = model.graph
    before = Nodes(BEFORE)
    pixels = before.add("Cast", INPUT, to=TensorProto.FLOAT)
    if foreign.channels_first:
        pixels = before.add("Transpose", pixels, perm=[0, 3, 1, 2])
    shape = (3, 1, 1) if foreign.channels_first else (3,)
    mean, std = (np.reshape(values, shape) for values in (normalisation.mean, normalisation.std))
    scaled = before.add("Mul", pixels, before.constant(1 / (255 * std)))
    before.add("Add", scaled, before.constant(-mean / std), named=foreign.input)
    nodes = [*before.nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(before.constants)
    constants = [value for value in graph.input if value.name != foreign.input]
    del graph.input[:]
    image = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", foreign.height, foreign.width, 3])
    graph.input.extend([image, *constants])
    return model


def with_way_out(
    network: onnx.ModelProto, calibrator: Calibrator, properties: dict[str, str], *, classes: int
) -> onnx.ModelProto:
    """The same with its output made `probabilities` (N, classes), calibrated as `InferenceGraph`'s are."""
    model = onnx.ModelProto()
    model.CopyFrom(network)
    graph = model.graph
    after = Nodes(AFTER)
    logits = after.add("Mul", graph.output[0].name, after.constant(1 / calibrator.temperature))
    logits = after.add("Add", logits, after.constant(calibrator.biases or (0.0,) * classes), named=LOGITS)
    if calibrator.exponent != 1:
        surprisal = after.add("Abs", after.add("LogSoftmax", logits, axis=1))
        logits = after.add("Neg", after.add("Pow", surprisal, after.constant(calibrator.exponent)))
    after.add("Softmax", logits, axis=1, named=OUTPUT)
    graph.node.extend(after.nodes)
    graph.initializer.extend(after.constants)
    graph.output[0].CopyFrom(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes]))
    del model.metadata_props[:]
    helper.set_model_props(model, properties)
    return model


def from_probabilities(foreign: Foreign) -> Foreign:
    """The same with their logarithms as output, which are logits."""
    model = onnx.ModelProto()
    model.CopyFrom(foreign.model)
    end = Nodes("convoy_log_")
    output = end.add("Log", end.add("Max", foreign.output, end.constant(SMALLEST)))
    model.graph.node.extend(end.nodes)
    model.graph.initializer.extend(end.constants)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", None]))
    return Foreign(model, foreign.input, foreign.channels_first, foreign.height, foreign.width, output)
