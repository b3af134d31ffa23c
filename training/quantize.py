"""An exported fp32 file + training images → the same network in 8-bit integers, for CPUs that multiply those faster.

Static quantisation in QDQ form, which ONNX Runtime turns into integer kernels: unsigned activations, signed weights
with a scale per channel. Softmax and logits stay float32, and the image's bytes enter the first convolution as they
are.

Weights have all 8 bits. CPUs without int8 dot products (AVX-512 VNNI, AVX-VNNI) add pairs of products in 16 bits,
which overflow with those: `cifar10` falls from 94.2 to 82.1 % on validation. 7 bits would be safe there, but cost
0.4 points everywhere, and such CPUs gain too little to be served this file. Measured in ONNX Runtime's exact mode
(`training.onnx_graph.run_onnx`), which computes on any CPU what one with int8 dot products computes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from service.metadata import INPUT
from training.calibrate import Calibrator
from training.integer_layout import arrange
from training.onnx_graph import change_constant, last_layer

BATCH = 128
INTEGER_OPERATORS = ["Conv", "Relu", "MaxPool", "Add", "Mul", "Gemm", "Reshape"]


class Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no type information
    """Batches of uint8 images (N, H, W, 3) whose activations set the scales."""

    def __init__(self, images: npt.NDArray[np.uint8], batch: int = BATCH) -> None:
        self._batches = iter([{INPUT: images[i : i + batch]} for i in range(0, len(images), batch)])

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        """The next batch, or None after the last."""
        return next(self._batches, None)


def quantize(fp32: Path, int8: Path, images: npt.NDArray[np.uint8]) -> None:
    """Write the integer form of `fp32` to `int8`.

    An activation's range is from the mean of the minima to the mean of the maxima in batches of `images`: to lose the
    rarest extremes costs less than coarser steps for everything else. Bytes of the image stay what they are.
    """
    (cast,) = (node for node in onnx.load(fp32).graph.node if node.op_type == "Cast")
    pixels = {"scale": np.array(1, np.float32), "zero_point": np.array(0, np.uint8)}
    with without_advice():
        quantize_static(
            fp32,
            int8,
            Images(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=INTEGER_OPERATORS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "OpTypesToExcludeOutputQuantization": ["Gemm"],
                "CalibMovingAverage": True,
                "TensorQuantOverrides": {cast.output[0]: [pixels]},
            },
        )
    model = onnx.load(int8)
    _take_bytes(model.graph)
    arrange(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(int8))


def recalibrate(int8: Path, calibrator: Calibrator, properties: dict[str, str]) -> None:
    """Build a calibrator fitted on the logits of the file `int8` into that file, and set its properties.

    The temperature goes into the scales of the last layer, the biases into its integer bias, whose unit is far
    below a thousandth of a logit, and the exponent takes the place of the one that came with the fp32 file.
    """
    model = onnx.load(int8)
    makers = {name: node for node in model.graph.node for name in node.output}
    change = partial(change_constant, model.graph)
    weights, bias = (makers[name] for name in last_layer(model.graph).input[1:])
    change(weights.input[1], lambda scale: scale / calibrator.temperature)
    unit = change(bias.input[1], lambda scale: scale / calibrator.temperature)
    change(bias.input[0], lambda sums: sums + np.rint(np.array(calibrator.biases or 0.0) / unit))
    (power,) = (node for node in model.graph.node if node.op_type == "Pow")
    change(power.input[1], lambda exponent: np.full_like(exponent, calibrator.exponent))
    onnx.helper.set_model_props(model, properties)
    onnx.save_model(model, str(int8))


def _take_bytes(graph: onnx.GraphProto) -> None:
    """Remove the image's cast to float and its quantisation, which undo each other: scale 1, zero point 0."""
    (cast,) = (node for node in graph.node if node.op_type == "Cast")
    (quantization,) = (node for node in graph.node if cast.output[0] in node.input)
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == quantization.output[0]:
                node.input[place] = cast.input[0]
    graph.node.remove(cast)
    graph.node.remove(quantization)


@contextmanager
def without_advice() -> Iterator[None]:
    """Without onnxruntime's warning that graphs should be optimised first: the exporter did that."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
