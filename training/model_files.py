"""Trained network → its ONNX files, each proven: fp32 against torch, fp16 (GPUs) and int8 (CPUs) against fp32.

What a gate refuses raises `ExportError`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.metadata import Evaluation, Precision
from training import device
from training.architectures import Network
from training.calibrate import Calibrator, fit
from training.data import Split, TrainingData
from training.errors import ExportError
from training.loop import logits_of
from training.onnx_graph import InferenceGraph, run_onnx, run_onnx_with_logits, write_onnx
from training.quantize import quantize, recalibrate

GATE_IMAGES = 1_000
GATE_BATCH_SIZES = (1, 2, 7, 256)
GATE_TOLERANCE = 1e-5
GATE_ACCURACY_LOSS = 0.002
GATE_IMAGES_LOST = 3  # always allowed: of a few hundred images, one is more than the above
GATE_DISAGREEMENT = 0.05  # of int8 with fp32, by the latter's probabilities: of our models below 0.0001
CALIBRATION_IMAGES = 1_024
OTHER_IMAGES = 64
NAMES: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}


@dataclass(frozen=True)
class ModelFile:
    """One ONNX file and the calibrator inside it."""

    path: Path
    calibrator: Calibrator

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """What the file says of uint8 images (N, H, W, 3): (N, classes)."""
        return run_onnx(self.path, images)

    def answers(self, images: npt.NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Probabilities as the file gives them, and the logits before its calibrator: (N, classes), (N, classes)."""
        probabilities, scaled = run_onnx_with_logits(self.path, images)
        return torch.from_numpy(probabilities), self.calibrator.unscaled(torch.from_numpy(scaled))


def write_files(
    folder: Path, network: Network, data: TrainingData, fitting: Split, properties: dict[str, str]
) -> dict[Precision, ModelFile]:
    """Write every precision's file into `folder`, its calibrator fitted on `fitting`, which was held out."""
    _, height, width, _ = fitting.images.shape
    logits = torch_logits(network, fitting.images)
    others = torch_logits(network, data.train.images[:OTHER_IMAGES])  # of what was held out there may be one image
    if not bool(logits.isfinite().all()):  # what is made of it could not even be measured
        raise ExportError("The network's answers are no numbers, its training has failed; train it anew.")
    if bool((logits == logits[0]).all() and (others == others[0]).all()):
        raise ExportError("The network gives every image the same answer; train it, or train it longer.")
    calibrator = fit(logits, fitting.labels, pictures=len(data.validation))
    fp32, fp16, int8 = (folder / NAMES[precision] for precision in ("fp32", "fp16", "int8"))
    described = properties | _described(calibrator)
    for file, dtype in ((fp32, torch.float32), (fp16, torch.float16)):
        write_onnx(InferenceGraph(network, calibrator, dtype), file, height=height, width=width, properties=described)
    check_against_torch(fp32, network, calibrator, torch.cat([data.validation.images, data.train.images[:GATE_IMAGES]]))

    quantize(fp32, int8, data.train.images[:CALIBRATION_IMAGES].numpy())
    _, integer_logits = run_onnx_with_logits(int8, fitting.images.numpy())
    further = fit(torch.from_numpy(integer_logits), fitting.labels, pictures=len(data.validation))
    recalibrate(int8, further, properties | _described(calibrator.then(further)))
    return {
        "fp32": ModelFile(fp32, calibrator),
        "fp16": ModelFile(fp16, calibrator),
        "int8": ModelFile(int8, calibrator.then(further)),
    }


def _described(calibrator: Calibrator) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in asdict(calibrator).items()}


def torch_logits(network: Network, images: Tensor) -> Tensor:
    """Logits of the unfolded network in float32 on the CPU: what the fp32 file is compared with."""
    return logits_of(network, images, torch.device("cpu"), device.Precision.FP32)


def check_against_torch(onnx_file: Path, network: Network, calibrator: Calibrator, images: Tensor) -> None:
    """Raise `ExportError` unless file and network agree on `images` at every batch size of the gate."""
    expected = calibrator(torch_logits(network, images)).numpy()
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


def check_numbers(precision: Precision, probabilities: Tensor) -> None:
    """Raise `ExportError` where a file gives what is no probability: fp16 ends at 65,504."""
    if not bool(probabilities.isfinite().all()):
        raise ExportError(
            f"The {precision} file gives probabilities that are no numbers, the network's own being too large for it; "
            "nothing was written."
        )


def check_accuracy(evaluations: tuple[Evaluation, ...]) -> None:
    """Raise `ExportError` when a file is right less often than the fp32 file by more than the gate allows."""
    (reference,) = (e for e in evaluations if e.precision == "fp32")
    for each in evaluations:
        if loses(each, reference):
            raise ExportError(
                f"The {each.precision} file is right about {each.accuracy:.2%} of the {each.split} images, the fp32 "
                f"file about {reference.accuracy:.2%}: more than {_allowed(each):.1%} lost; nothing was written."
            )


def check_agreement(files: dict[Precision, ModelFile], images: Split) -> None:
    """Raise `ExportError` when the int8 file gives the first of `images` other labels than the fp32 file too often.

    Where few pictures were held out, that it is right about as many of them says little. Here labels need not be right,
    so that it can be asked about pictures to learn from, of which there are more.
    """
    asked = images.images[:GATE_IMAGES].numpy()
    expected, given = (files[precision].probabilities(asked) for precision in ("fp32", "int8"))
    named, disagreement, allowed = disagreements(expected, given)
    if disagreement > allowed:
        raise ExportError(
            f"The int8 file gives {named:,} of {len(asked):,} training images another label than "
            f"the fp32 file, to which they are less probable by {disagreement:,.1f} in all (allowed: {allowed:,.1f}); "
            "nothing was written."
        )


def disagreements(expected: npt.NDArray[np.float32], given: npt.NDArray[np.float32]) -> tuple[int, float, float]:
    """How many labels differ, how much that is in all, and how much is allowed: probabilities (N, classes) twice.

    Each other label counts for as much as it is less probable by `expected` than the label there: a hardly trained
    network may name one class or another. What is no number is a whole disagreement.
    """
    named, numbers = given.argmax(1)[:, None], (np.isfinite(given) & np.isfinite(expected)).all(1)
    short_by = np.where(numbers, expected.max(1) - np.take_along_axis(expected, named, 1)[:, 0], 1.0)
    allowed = max(GATE_IMAGES_LOST, GATE_DISAGREEMENT * len(given)) + 1e-3  # for rounding errors
    return int((short_by > 0).sum()), float(short_by.sum()), allowed


def loses(evaluation: Evaluation, reference: Evaluation) -> bool:
    """Whether a file is right less often than the fp32 file by more than the gate allows."""
    return not reference.accuracy - evaluation.accuracy < _allowed(evaluation) + 1e-9


def _allowed(evaluation: Evaluation) -> float:
    return max(GATE_ACCURACY_LOSS, GATE_IMAGES_LOST / evaluation.images)
