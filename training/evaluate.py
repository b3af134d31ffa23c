"""An exported model + labelled images → what it is worth. The only place that opens the test split.

`evaluate` measures the shipped ONNX files, not the network in torch, by one view of each image.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from service.metadata import Evaluation, ModelMetadata, Precision, ReliabilityBin, Robustness, SetRecord, SplitName
from training import cifar10, report
from training.calibrate import (
    MIRRORED,
    NOTHING,
    Calibrator,
    brier_score,
    conformal_thresholds,
    cross_fitted_sets,
    expected_calibration_error,
    negative_log_likelihood,
    prediction_sets,
    reliability,
)
from training.data import Split, labels_of, load_test_split, load_training_data, option_of
from training.errors import TrainingError
from training.foreign.source import all_but_test
from training.model_files import ModelFile
from training.onnx_graph import run_onnx
from training.repository import read_model
from training.robustness import Answer, measure_robustness
from training.views import six_views

R = TypeVar("R", Evaluation, Robustness)


def evaluate_model(
    folder: Path, data: Path, split: SplitName = "test", precisions: Collection[Precision] | None = None
) -> tuple[Evaluation, ...]:
    """Evaluate the files of the model in `folder`, or those of some `precisions`, on a split of the data at `data`."""
    metadata, files, images = _open(folder, data, split)
    asked = {precision: file for precision, file in files.items() if precisions is None or precision in precisions}
    return _evaluations(metadata, asked, images, split, _command(metadata, data, split))


def _evaluations(
    metadata: ModelMetadata, files: dict[Precision, Path], images: Split, split: SplitName, command: str
) -> tuple[Evaluation, ...]:
    return tuple(
        evaluate_probabilities(
            *ModelFile(file, _calibrator(metadata, precision)).answers(images.images.numpy()),
            images.labels,
            labels=metadata.labels,
            thresholds=metadata.calibration.thresholds.get(precision, {}),
            split=split,
            precision=precision,
            command=command,
        )
        for precision, file in files.items()
    )


def six_view_accuracy(folder: Path, data: Path, split: SplitName = "test") -> dict[Precision, float]:
    """How often each file of the model in `folder` is right when it sees six views of every image."""
    _, files, images = _open(folder, data, split)

    def answer(file: Path, pixels: Tensor) -> Tensor:
        return torch.from_numpy(run_onnx(file, pixels.numpy())).clamp_min(1e-38).log()

    answers = {precision: six_views(partial(answer, file), images.images) for precision, file in files.items()}
    return {precision: float((a.argmax(1) == images.labels).double().mean()) for precision, a in answers.items()}


def fit_thresholds(folder: Path, data: Path) -> tuple[Evaluation, ...]:
    """Give the model in `folder` the thresholds of prediction sets, and record what they measure on validation.

    For models that were exported without; its files stay what they are. What other sets measured on the test images is
    taken out: these are to be measured there anew. Raises what `check_same_data` does.
    """
    metadata, files, images = _open(folder, data, "validation")
    check_same_data(metadata, data)
    fitting = images.mirrored_too() if metadata.calibration.fitted_on.endswith(MIRRORED) else images
    answers = {precision: torch.from_numpy(run_onnx(file, fitting.images.numpy())) for precision, file in files.items()}
    thresholds = {
        precision: conformal_thresholds(probabilities, fitting.labels, pictures=len(images))
        for precision, probabilities in answers.items()
    }
    calibration = metadata.calibration.model_copy(update={"thresholds": thresholds})
    unmeasured = tuple(e.model_copy(update={"prediction_sets": {}}) for e in metadata.evaluations)  # with these
    metadata = metadata.model_copy(update={"calibration": calibration, "evaluations": unmeasured})
    evaluations = _evaluations(metadata, files, images, "validation", _command(metadata, data, "validation"))
    _write(metadata, folder, evaluations)
    return evaluations


def evaluate_robustness(folder: Path, data: Path, split: SplitName = "test") -> tuple[Robustness, ...]:
    """As `evaluate_model`, on images that are re-encoded, grey, or corrupted.

    Not of the fp16 file, which answers as the fp32 file does.
    """
    metadata, files, images = _open(folder, data, split)
    answers: dict[Precision, Answer] = {
        precision: partial(run_onnx, file) for precision, file in files.items() if precision != "fp16"
    }
    return measure_robustness(answers, images, split=split, command=_command(metadata, data, split) + " --suite full")


def _open(folder: Path, data: Path, split: SplitName) -> tuple[ModelMetadata, dict[Precision, Path], Split]:
    """What the model in `folder` says of itself, its files, and the images; raises `TrainingError`."""
    metadata = read_model(folder)
    classes = labels_of(data)
    if sorted(metadata.labels) != sorted(classes):
        raise TrainingError(
            f"{folder} knows {', '.join(metadata.labels)}, and the images in {data} are of {', '.join(classes)}; point "
            "--data at images of its own classes."
        )
    try:
        files = {precision: file.verify(folder) for precision, file in metadata.files.items()}
    except ValueError as exc:
        raise TrainingError(f"The model in {folder} is damaged: {exc}; restore the folder or export it again.") from exc
    height, width = metadata.input.height, metadata.input.width
    if height != width:
        raise TrainingError(f"{folder} takes images of {width} × {height}; only models of square ones can be measured.")
    if split == "validation" and _is_calibrated_import(metadata):
        return metadata, files, all_but_test(load_training_data(data, height), metadata.labels)
    images = labelled_images(data, split, height)
    return metadata, files, images.renumbered(classes, metadata.labels)


def _is_calibrated_import(metadata: ModelMetadata) -> bool:
    """Whether it was calibrated and measured on all pictures but the test's, none of which it has learned from."""
    return metadata.provenance.epochs == 0 and metadata.calibration.fitted_on != NOTHING


def _calibrator(metadata: ModelMetadata, precision: Precision) -> Calibrator:
    scaling = metadata.calibration.of(precision)
    return Calibrator(scaling.temperature, scaling.biases, scaling.exponent)


def labelled_images(data: Path, split: SplitName, size: int) -> Split:
    """That split of the data set at `data`, as images of `size` × `size` pixels."""
    return load_test_split(data, size) if split == "test" else load_training_data(data, size).validation


def _command(metadata: ModelMetadata, data: Path, split: SplitName) -> str:
    asked = () if split == "test" else ("--split", split)
    model = f"models/{metadata.name}/{metadata.version}"
    return shlex.join(["convoy-train", "evaluate", model, *option_of(data), *asked])


def check_same_data(metadata: ModelMetadata, data: Path) -> None:
    """Raise `TrainingError` where what is recorded of a model was measured on other data than that at `data`.

    A card has one row for a file and split: other pictures of the same classes would take the place of the model's own.
    """
    commands = (*(e.command for e in metadata.evaluations), *(each.command for each in metadata.robustness))
    told = {option for option in map(_data_in, commands) if option is not None}
    if told and option_of(data) not in told:
        known, given = sorted(_called(each) for each in told), _called(option_of(data))
        raise TrainingError(
            f"{metadata.name}, version {metadata.version}, is recorded as measured on {' and '.join(known)}, and "
            f"{given} would pass for that; point --data at {known[0]}, or evaluate without --record."
        )


def _data_in(command: str) -> tuple[str, ...] | None:
    """What a recorded command has for the data, see `option_of`; None for imports that did not record it."""
    if command.startswith("convoy-train import ") and " --data " not in command:
        return None
    words = shlex.split(command)
    return tuple(words[words.index("--data") :][:2]) if "--data" in words else ()


def _called(option: tuple[str, ...]) -> str:
    return f"the folder {option[1]}" if option else cifar10.NAME


def record(folder: Path, evaluations: tuple[Evaluation, ...], robustness: tuple[Robustness, ...] = ()) -> None:
    """Write both into the model's metadata and card, in place of earlier ones of the same split and file."""
    _write(read_model(folder), folder, evaluations, robustness)


def _write(
    metadata: ModelMetadata,
    folder: Path,
    evaluations: tuple[Evaluation, ...],
    robustness: tuple[Robustness, ...] = (),
) -> None:
    metadata = metadata.model_copy(
        update={
            "evaluations": _replaced(metadata.evaluations, evaluations),
            "robustness": _replaced(metadata.robustness, robustness),
        }
    )
    metadata.write(folder)
    report.write_card(metadata, folder)


def _replaced(old: tuple[R, ...], new: tuple[R, ...]) -> tuple[R, ...]:
    return tuple({(each.split, each.precision): each for each in old + new}.values())


def evaluate_probabilities(
    p: Tensor,
    logits: Tensor,
    truth: Tensor,
    *,
    labels: tuple[str, ...],
    thresholds: Mapping[str, float],
    split: SplitName,
    precision: Precision,
    command: str,
) -> Evaluation:
    """Measure probabilities `p`, made of `logits` by a calibrator (N, classes), against true classes int64 (N,)."""
    correct = p.argmax(1) == truth
    return Evaluation(
        split=split,
        precision=precision,
        images=len(truth),
        accuracy=float(correct.double().mean()),
        nll=negative_log_likelihood(p, truth),
        brier=brier_score(p, truth),
        ece=expected_calibration_error(p, truth),
        ece_uncalibrated=expected_calibration_error(logits.softmax(1), truth),
        class_accuracy={
            label: float(correct[truth == i].double().mean())
            for i, label in enumerate(labels)
            if bool((truth == i).any())
        },
        prediction_sets={
            asked: _measure_sets(
                prediction_sets(p, threshold) if split == "test" else cross_fitted_sets(p, truth, float(asked)), truth
            )
            for asked, threshold in thresholds.items()
        },
        reliability=tuple(
            ReliabilityBin(images=int(n), probability=top / max(n, 1), accuracy=right / max(n, 1))
            for n, top, right in reliability(p, truth).tolist()
        ),
        command=command,
    )


def _measure_sets(sets: Tensor, truth: Tensor) -> SetRecord:
    return SetRecord(
        coverage=float(sets.gather(1, truth.unsqueeze(1)).double().mean()),
        mean_size=float(sets.sum(1).double().mean()),
    )
