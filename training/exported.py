"""An exported model as a teacher: its fp32 file back to a network in torch.

A temperature that was fitted alone stays in the weights: the network is calibrated. One that was fitted together with
an exponent says nothing by itself, and is taken out again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from service.metadata import FILE_NAME, Calibration, ModelMetadata
from training.architectures import ARCHITECTURES, Network
from training.calibrate import Calibrator
from training.checkpoint import Teacher
from training.errors import CheckpointError, is_lack_of_memory
from training.onnx_graph import last_layer, run_onnx
from training.recipes import TrainConfig

TOLERANCE = 1e-4  # of probabilities; float32 in another order of summation stays within a hundredth of it


def is_exported(folder: Path) -> bool:
    """Whether `folder` holds an exported model and not a run."""
    return (folder / FILE_NAME).is_file()


def load_exported(folder: Path) -> Teacher:
    """The exported model in `folder` as a teacher; raises `CheckpointError` when the network is not to be had."""
    try:
        metadata = ModelMetadata.read(folder)
        file = metadata.files["fp32"].verify(folder)
        with np.load(metadata.golden.verify(folder)) as arrays:
            images = arrays["images"]
        network = ARCHITECTURES[metadata.architecture](len(metadata.labels), size=metadata.input.height).eval()
        calibrator = _calibrator(metadata.calibration)
        network.adopt(list(_weights(onnx.load(file), network, calibrator)))
        recorded = metadata.provenance.config.items()
        config = TrainConfig(**{name: tuple(v) if isinstance(v, list) else v for name, v in recorded})  # type: ignore[arg-type]  # a config wrote it
        with torch.no_grad():
            logits = network(torch.from_numpy(images).permute(0, 3, 1, 2).float())
            answers = calibrator(logits)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as exc:
        if is_lack_of_memory(exc):
            raise
        raise CheckpointError(f"The model in {folder} is damaged or of another version; name a run's folder.") from exc
    if np.abs(run_onnx(file, images) - answers.numpy()).max() > TOLERANCE:
        raise CheckpointError(
            f"The model in {folder} is no {metadata.architecture} of this version; name a run's folder."
        )
    provenance = metadata.provenance
    kept = ", its temperature among them" if calibrator.temperature == 1 else ""
    told = {**provenance.training, "weights": f"models/{metadata.name}/{metadata.version}{kept}"}
    return Teacher(provenance.recipe, config, metadata.labels, network.state_dict(), told)


def _calibrator(calibration: Calibration) -> Calibrator:
    """What is in the file and no part of the teacher."""
    temperature = 1.0 if calibration.exponent == 1 else calibration.temperature
    return Calibrator(temperature, calibration.biases, calibration.exponent)


def _weights(model: onnx.ModelProto, network: Network, calibrator: Calibrator) -> Iterator[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution and linear layer, as for normalised images and without class biases."""
    constants = {constant.name: constant for constant in model.graph.initializer}
    logits = last_layer(model.graph)
    for place, node in enumerate(node for node in model.graph.node if node.op_type in ("Conv", "Gemm")):
        arrays = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
        weight, *bias = (torch.from_numpy(array.copy()) for array in arrays)
        offset = bias[0] if bias else torch.zeros(len(weight))  # torch's exporter left out a bias that is zero
        if place == 0:
            offset = offset + (weight * network.mean).sum((1, 2, 3))
            weight = weight * network.std
        if node == logits:
            weight, offset = weight * calibrator.temperature, calibrator.unscaled(offset)
        yield weight, offset
