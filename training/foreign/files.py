"""A network from elsewhere with its way in → its ONNX files, each calibrated and measured; worse ones are left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from service.metadata import Evaluation, Precision
from training import golden
from training.calibrate import Calibrator, conformal_thresholds, fit
from training.data import Split
from training.errors import ExportError
from training.evaluate import evaluate_probabilities
from training.foreign import wrapping
from training.foreign.fp16 import halved
from training.foreign.graph import Foreign
from training.foreign.int8 import quantized
from training.model_files import ModelFile, disagreements, loses
from training.onnx_graph import run_onnx_with_logits

FP16_PICTURES = 16  # that show how large the network's numbers get


def networks_of(
    foreign: Foreign, normalisation: wrapping.Normalisation, images: Split
) -> tuple[dict[Precision, onnx.ModelProto], tuple[str, ...]]:
    """`foreign` with its way in, in every precision that can be made of it, and why others can't."""
    network, pixels = wrapping.with_way_in(foreign, normalisation), images.images.numpy()
    ways: dict[Precision, Callable[[], onnx.ModelProto]] = {
        "fp32": lambda: network,
        "fp16": lambda: wrapping.with_way_in(halved(foreign, normalisation(pixels[:FP16_PICTURES])), normalisation),
        "int8": lambda: quantized(network, pixels),
    }
    networks, refusals = {}, []
    for precision, make in ways.items():
        try:
            networks[precision] = make()
        except ExportError as exc:
            refusals.append(str(exc))
    return networks, tuple(refusals)


@dataclass(frozen=True)
class Measured:
    """The files that stay, and what they were worth on the pictures that they were calibrated on."""

    files: dict[Precision, ModelFile] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    thresholds: dict[Precision, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def measure(files: dict[Precision, ModelFile], images: Split, labels: tuple[str, ...], command: str) -> Measured:
    """Measure `files`, the fp32 one first, and remove what is right less often than that, or says something else.

    Raises `ExportError` where the fp32 file's probabilities are no numbers.
    """
    measured = Measured()
    for precision, file in files.items():
        p, logits = file.answers(images.images.numpy())
        if flaw := _unlike(file, files["fp32"], images, p):
            _leave_out(precision, file, flaw, measured)
            continue
        thresholds = conformal_thresholds(p, images.labels, pictures=len(images))
        evaluation = evaluate_probabilities(
            p, logits, images.labels, labels=labels, thresholds=thresholds, split="validation", precision=precision,
            command=command,
        )  # fmt: skip
        if measured.evaluations and loses(evaluation, measured.evaluations[0]):
            exact = measured.evaluations[0].accuracy
            flaw = f"was right about {evaluation.accuracy:.2%} of these pictures, the fp32 file about {exact:.2%}"
            _leave_out(precision, file, flaw, measured)
            continue
        measured.files[precision] = file
        measured.evaluations.append(evaluation)
        measured.thresholds[precision] = thresholds
    return measured


def _leave_out(precision: Precision, file: ModelFile, flaw: str, measured: Measured) -> None:
    if precision == "fp32":
        raise ExportError(f"The network {flaw}; repair it, nothing was written.")
    measured.notes.append(f"The {precision} file {flaw}: it was left out.")
    file.path.unlink()


def _unlike(file: ModelFile, exact: ModelFile, images: Split, answers: Tensor) -> str | None:
    """What `file` does that `exact` does not, though it be right about as many of a few `images`.

    It is asked about generated pictures, too: they have no labels, but must be given those that `exact` gives.
    """
    _, height, width, _ = images.images.shape
    generated = golden.pictures(height, width)
    given = file.probabilities(generated)
    if not (bool(answers.isfinite().all()) and bool(np.isfinite(given).all())):
        return "gives probabilities of some pictures that are no numbers"
    named, disagreement, allowed = disagreements(exact.probabilities(generated), given)
    told = f"gives {named} of {len(given)} generated pictures another label than the fp32 file"
    return told if disagreement > allowed else None


def write_calibrated(
    path: Path,
    network: onnx.ModelProto,
    properties: dict[str, str],
    labels: tuple[str, ...],
    images: Split | None = None,
) -> ModelFile:
    """Write `network` to `path` with a way out, calibrated on `images` where there are any."""

    def write(calibrator: Calibrator) -> ModelFile:
        model = wrapping.with_way_out(network, calibrator, properties, classes=len(labels))
        onnx.save_model(model, str(path), save_as_external_data=False)
        return ModelFile(path, calibrator)

    written = write(Calibrator())
    if images is None:
        return written
    _, logits = run_onnx_with_logits(path, images.images.numpy())
    return write(fit(torch.from_numpy(logits), images.labels))
