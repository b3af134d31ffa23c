"""An exported model + labelled images → what it is worth. The only place that opens the test split.

It measures the shipped ONNX file, single view, not the network in torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.metadata import Evaluation, ModelMetadata, Precision
from training import report
from training.calibrate import (
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    with_temperature,
)
from training.data import LABELS, load_test_split
from training.errors import TrainingError
from training.onnx_graph import run_onnx


def evaluate_model(folder: Path, data: Path) -> tuple[Evaluation, ...]:
    """Evaluate every file of the model in `folder` on the official test split at `data`."""
    metadata = read_model(folder)
    if metadata.labels != LABELS:
        raise TrainingError(f"{folder} was not trained on CIFAR-10's classes, so its test split says nothing about it.")
    try:
        files = {precision: file.verify(folder) for precision, file in metadata.files.items()}
    except ValueError as exc:
        raise TrainingError(f"The model in {folder} is damaged: {exc}; restore the folder or export it again.") from exc
    test = load_test_split(data)
    return tuple(
        evaluate_probabilities(
            run_onnx(file, test.images.numpy()),
            test.labels,
            labels=metadata.labels,
            temperature=metadata.calibration.temperature_of(precision),
            split="test",
            precision=precision,
            command=f"convoy-train evaluate models/{metadata.name}/{metadata.version}",
        )
        for precision, file in files.items()
    )


def read_model(folder: Path) -> ModelMetadata:
    """The metadata of the model in `folder`; raises `TrainingError`."""
    try:
        return ModelMetadata.read(folder)
    except (OSError, ValueError) as exc:
        raise TrainingError(f"{folder} is not an exported model: its metadata.json is missing or not valid.") from exc


def record(folder: Path, evaluations: tuple[Evaluation, ...]) -> None:
    """Write `evaluations` into the model's metadata and card, in place of earlier ones of the same split and file."""
    metadata = read_model(folder)
    new = {(e.split, e.precision) for e in evaluations}
    others = tuple(e for e in metadata.evaluations if (e.split, e.precision) not in new)
    metadata = metadata.model_copy(update={"evaluations": (*others, *evaluations)})
    metadata.write(folder)
    report.write_card(metadata, folder)


def evaluate_probabilities(
    probabilities: npt.NDArray[np.float32],
    truth: Tensor,
    *,
    labels: tuple[str, ...],
    temperature: float,
    split: Literal["validation", "test"],
    precision: Precision,
    command: str,
) -> Evaluation:
    """Measure calibrated probabilities (N, classes) against the true classes int64 (N,)."""
    p = torch.from_numpy(probabilities)
    correct = p.argmax(1) == truth
    return Evaluation(
        split=split,
        precision=precision,
        images=len(truth),
        accuracy=float(correct.double().mean()),
        nll=negative_log_likelihood(p, truth),
        brier=brier_score(p, truth),
        ece=expected_calibration_error(p, truth),
        ece_uncalibrated=expected_calibration_error(with_temperature(p, temperature), truth),
        class_accuracy={
            label: float(correct[truth == i].double().mean())
            for i, label in enumerate(labels)
            if bool((truth == i).any())
        },
        command=command,
    )
