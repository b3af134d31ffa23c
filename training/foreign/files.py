"""A network from elsewhere with its way in → its ONNX files, each calibrated and measured; worse ones are left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import torch

from service.metadata import Evaluation, Precision
from training.calibrate import Calibrator, conformal_thresholds, fit
from training.data import Split
from training.errors import ExportError
from training.evaluate import evaluate_probabilities
from training.foreign import wrapping
from training.foreign.fp16 import halved
from training.foreign.graph import Foreign
from training.foreign.int8 import quantized
from training.model_files import ModelFile, loses
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
    """Measure `files`, the fp32 one first, and remove what is right less often than that."""
    measured = Measured()
    for precision, file in files.items():
        p, logits = file.answers(images.images.numpy())
        thresholds = conformal_thresholds(p, logits, images.labels, pictures=len(images))
        evaluation = evaluate_probabilities(
            p, logits, images.labels, labels=labels, thresholds=thresholds, split="validation", precision=precision,
            command=command,
        )  # fmt: skip
        if measured.evaluations and loses(evaluation, measured.evaluations[0]):
            measured.notes.append(
                f"The {precision} file was right about {evaluation.accuracy:.2%} of these pictures, the fp32 file "
                f"about {measured.evaluations[0].accuracy:.2%}: it was left out."
            )
            file.path.unlink()
        else:
            measured.files[precision] = file
            measured.evaluations.append(evaluation)
            measured.thresholds[precision] = thresholds
    return measured


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
