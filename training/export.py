"""Finished checkpoint → a version in the model repository, or nothing at all.

The folder is built beside its place and moved there only when the fp32 file computes what the network computes and
the smaller ones, fp16 for GPUs and int8 for CPUs, are right about as often.
"""

from __future__ import annotations

import dataclasses
import shlex
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import onnxruntime
import torch

from service.metadata import (
    Calibration,
    FileRecord,
    InputSpec,
    ModelMetadata,
    Provenance,
    Scaling,
    TeacherRecord,
    TrainingConfig,
)
from training import checkpoint as checkpoints
from training import golden, report
from training.calibrate import MIRRORED, Calibrator, conformal_thresholds, held_out
from training.checkpoint import Checkpoint
from training.data import TrainingData
from training.errors import ExportError
from training.evaluate import evaluate_probabilities
from training.model_files import check_accuracy, check_agreement, check_numbers, torch_logits, write_files
from training.onnx_graph import OPSET, InferenceGraph, count_macs
from training.provenance import git_revision, recorded
from training.recipes import TrainConfig
from training.repository import check_target, new_version
from training.stages import write_stages


def export(
    run: Path, target: Path, data: TrainingData, *, description: str = "", notes: tuple[str, ...] = ()
) -> ModelMetadata:
    """Export the finished run in `run` to `target` = models/<name>/<version>.

    Raises what `exportable` does, `ExportError` for data of other classes or when a file fails its gate, and
    `DataError` where the run has learned from the images that are to calibrate and measure it.
    """
    saved = exportable(run, target)
    if saved.labels != data.labels:
        raise ExportError(
            f"{run} knows {', '.join(saved.labels)}, and the images of {data.name} are of {', '.join(data.labels)}; "
            "point --data at those that it was trained on."
        )
    if saved.learned_from is not None:
        data.check_held_out(
            saved.learned_from,
            f"{run} has learned from",
            "point --data at the very files that it was trained on, or train again on these",
        )
    with new_version(target) as folder:
        return _fill(folder, run, saved, data, target, description, notes)


def exportable(run: Path, target: Path) -> Checkpoint:
    """The finished run in `run`, if it may become `target`: all that can be known before the data is read.

    Raises what `check_target` does, `CheckpointError` for an unfinished run, `ExportError` for one that held nothing
    back.
    """
    check_target(target)
    saved = checkpoints.load_finished(run)
    if saved.held_nothing_back:
        raise ExportError(
            f"{run} has learned from the validation images too, and nothing can be calibrated on what a network "
            "has learned; export a run of convoy-train train."
        )
    return saved


def _fill(
    folder: Path,
    run: Path,
    saved: Checkpoint,
    data: TrainingData,
    target: Path,
    description: str,
    notes: tuple[str, ...],
) -> ModelMetadata:
    name, number = target.parent.name, target.name
    network, (_, height, width, _) = checkpoints.network_of(saved), data.validation.images.shape
    properties = {"name": name, "version": number, "labels": ",".join(saved.labels)}
    fitting = held_out(data.validation, saved.config.augmentations)
    files = write_files(folder, network, data, fitting, properties)
    command = shlex.join(["convoy-train", "export", recorded(run), f"models/{name}/{number}", *data.option])
    answers = {precision: file.answers(fitting.images.numpy()) for precision, file in files.items()}
    for precision, (p, _) in answers.items():
        check_numbers(precision, p)
    truth = data.validation.labels
    thresholds = {
        precision: conformal_thresholds(p, fitting.labels, pictures=len(truth)) for precision, (p, _) in answers.items()
    }
    evaluations = tuple(
        evaluate_probabilities(
            p[: len(truth)],  # mirror images come behind
            logits[: len(truth)],
            truth,
            labels=saved.labels,
            thresholds=thresholds[precision],
            split="validation",
            precision=precision,
            command=command,
        )
        for precision, (p, logits) in answers.items()
    )
    check_accuracy(evaluations)
    check_agreement(files, data.train)
    pictures = golden.pictures(height, width)
    expected = files["fp32"].calibrator(torch_logits(network, torch.from_numpy(pictures)))
    metadata = ModelMetadata(
        name=name,
        version=number,
        description=description,
        architecture=saved.config.architecture,
        labels=saved.labels,
        input=InputSpec(height=height, width=width),
        parameters=sum(p.numel() for p in network.parameters()),
        macs=count_macs(InferenceGraph(network, Calibrator()), height=height, width=width),
        files={precision: FileRecord.of(file.path) for precision, file in files.items()},
        golden=FileRecord.of(golden.write(folder, pictures, expected, files)),
        stages=write_stages(files["fp32"].path),
        calibration=Calibration(
            **dataclasses.asdict(files["fp32"].calibrator),
            fitted_on=f"{len(truth):,} training images kept for validation"
            + (MIRRORED if len(fitting) > len(truth) else ""),
            others={"int8": Scaling(**dataclasses.asdict(files["int8"].calibrator))},
            thresholds=thresholds,
        ),
        evaluations=evaluations,
        notes=notes,
        provenance=_provenance(saved, data),
    )
    metadata.write(folder)
    report.write_card(metadata, folder)
    return metadata


def _provenance(saved: Checkpoint, data: TrainingData) -> Provenance:
    return Provenance(
        dataset=f"{data.name}, {len(data.train):,} training images ({len(data.validation):,} more for validation)",
        recipe=saved.recipe,
        config=_plain(saved.config),
        epochs=len(saved.history),
        training=saved.provenance,
        teachers=tuple(
            TeacherRecord(recipe=teacher.recipe, config=_plain(teacher.config), training=teacher.provenance)
            for teacher in saved.teachers
        ),
        export={
            "git_revision": git_revision(),
            "opset": str(OPSET),
            **{package: version(package) for package in ("torch", "onnx")},
            "onnxruntime": onnxruntime.__version__,  # its package has another name where it is that for GPUs
        },
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _plain(config: TrainConfig) -> TrainingConfig:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
