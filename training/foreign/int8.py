"""A network from elsewhere with its way in, and images → the same in 8-bit integers, for CPUs that are faster at those.

As `training.quantize` does it for our own, without what is known of those: static, QDQ, unsigned activations, signed
weights with a scale per channel; the way in and the logits stay float32. What can't be made raises `ExportError`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import version_converter
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.errors import ExportError
from training.foreign.wrapping import BEFORE
from training.onnx_graph import open_onnx
from training.quantize import Images, without_advice

OPERATORS = [
    "Conv",
    "Relu",
    "Clip",
    "MaxPool",
    "GlobalAveragePool",
    "Add",
    "Mul",
    "Gemm",
    "MatMul",
    "Reshape",
    "Concat",
]
OPSET = 13  # the first in which there is a scale for each channel
IMAGES, BATCH = 256, 8  # whose activations set the scales; all of a batch's are in memory at once


def quantized(network: onnx.ModelProto, images: npt.NDArray[np.uint8]) -> onnx.ModelProto:
    """The integer form of `network`, scaled by uint8 `images` (N, H, W, 3); its output stays what it is called."""
    try:
        with tempfile.TemporaryDirectory() as folder, without_advice():
            given, fused, made = (Path(folder, name) for name in ("given.onnx", "fused.onnx", "made.onnx"))
            older = next(each.version for each in network.opset_import if each.domain in ("", "ai.onnx")) < OPSET
            onnx.save_model(version_converter.convert_version(network, OPSET) if older else network, str(given))
            quant_pre_process(str(given), str(fused), skip_symbolic_shape=True)  # norms go into convolutions
            way_in = [node.name for node in onnx.load(fused).graph.node if node.name.startswith(BEFORE)]
            quantize_static(
                fused,
                made,
                Images(images[:IMAGES], BATCH),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=OPERATORS,
                nodes_to_exclude=way_in,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"], "CalibMovingAverage": True},
            )
            open_onnx(str(made))
            return onnx.load(made)
    except Exception as exc:  # of graphs that onnxruntime does not expect
        raise ExportError(f"No int8 file can be made of the network: {exc}") from exc
