"""Trained network → its ONNX files, each proven: fp32 against torch, fp16 (GPUs) and int8 (CPUs) against fp32.

What a gate refuses raises `ExportError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.metadata import Evaluation, Precision
from training import device
from training.architectures import Network
from training.calibrate import fit_temperature
from training.data import TrainingData
from training.errors import ExportError
from training.loop import logits_of
from training.onnx_graph import InferenceGraph, run_onnx, write_onnx
from training.quantize import divide_logits, quantize

GATE_IMAGES = 1_000
GATE_BATCH_SIZES = (1, 2, 7, 256)
GATE_TOLERANCE = 1e-5
GATE_ACCURACY_LOSS = 0.002
GATE_IMAGES_LOST = 3  # always allowed: of a few hundred images, one is more than the above
CALIBRATION_IMAGES = 1_024
NAMES: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}


@dataclass(frozen=True)
class ModelFile:
    """One ONNX file and the temperature inside it."""

    path: Path
    temperature: float

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """What the file says of uint8 images (N, H, W, 3): (N, classes)."""
        return run_onnx(self.path, images)


def write_files(
    folder: Path, network: Network, data: TrainingData, properties: dict[str, str]
) -> dict[Precision, ModelFile]:
    """Write every precision's file into `folder`, its temperature fitted on the validation images."""
    validation, (_, height, width, _) = data.validation, data.validation.images.shape
    temperature = fit_temperature(torch_logits(network, validation.images), validation.labels)
    fp32, fp16, int8 = (folder / NAMES[precision] for precision in ("fp32", "fp16", "int8"))
    described = properties | {"temperature": repr(temperature)}
    for file, dtype in ((fp32, torch.float32), (fp16, torch.float16)):
        write_onnx(InferenceGraph(network, temperature, dtype), file, height=height, width=width, properties=described)
    check_against_torch(fp32, network, temperature, torch.cat([validation.images, data.train.images[:GATE_IMAGES]]))

    quantize(fp32, int8, data.train.images[:CALIBRATION_IMAGES].numpy())
    log_probabilities = torch.from_numpy(run_onnx(int8, validation.images.numpy())).double().clamp_min(1e-38).log()
    further = fit_temperature(log_probabilities, validation.labels)  # logits but for a constant, which softmax ignores
    divide_logits(int8, further, properties | {"temperature": repr(temperature * further)})
    return {
        "fp32": ModelFile(fp32, temperature),
        "fp16": ModelFile(fp16, temperature),
        "int8": ModelFile(int8, temperature * further),
    }


def torch_logits(network: Network, images: Tensor) -> Tensor:
    """Logits of the unfolded network in float32 on the CPU: what the fp32 file is compared with."""
    return logits_of(network, images, torch.device("cpu"), device.Precision.FP32)


def check_against_torch(onnx_file: Path, network: Network, temperature: float, images: Tensor) -> None:
    """Raise `ExportError` unless file and network agree on `images` at every batch size of the gate."""
    expected = torch.softmax(torch_logits(network, images) / temperature, 1).numpy()
    for batch_size in GATE_BATCH_SIZES:
        got = run_onnx(onnx_file, images.numpy(), batch_size)
        difference = float(np.abs(got - expected).max())
        changed = int((got.argmax(1) != expected.argmax(1)).sum())
        if changed or not difference <= GATE_TOLERANCE:  # `not <=`: a NaN is a difference too
            raise ExportError(
                f"The ONNX file differs from the network at batch size {batch_size}: {changed} of {len(images):,} "
                f"labels change, probabilities by up to {difference:.1e} (allowed: {GATE_TOLERANCE:.0e}); "
                "nothing was written."
            )


def check_accuracy(evaluations: tuple[Evaluation, ...]) -> None:
    """Raise `ExportError` when a file is right less often than the fp32 file by more than the gate allows."""
    (reference,) = (e for e in evaluations if e.precision == "fp32")
    for each in evaluations:
        allowed = max(GATE_ACCURACY_LOSS, GATE_IMAGES_LOST / each.images)
        if not reference.accuracy - each.accuracy < allowed + 1e-9:
            raise ExportError(
                f"The {each.precision} file is right about {each.accuracy:.2%} of the {each.split} images, the fp32 "
                f"file about {reference.accuracy:.2%}: more than {allowed:.1%} lost; nothing was written."
            )
