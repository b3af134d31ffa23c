"""Finished checkpoint → a version in the model repository, or nothing at all.

The folder is built beside its place and moved there only when the ONNX file computes what the network computes.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from service.metadata import (
    Calibration,
    FileRecord,
    InputSpec,
    ModelMetadata,
    Provenance,
    TeacherRecord,
    TrainingConfig,
)
from training import checkpoint as checkpoints
from training import golden, report
from training.architectures import Network
from training.calibrate import fit_temperature
from training.checkpoint import Checkpoint
from training.data import TrainingData
from training.device import Precision
from training.errors import ExportError
from training.evaluate import evaluate_probabilities
from training.loop import logits_of
from training.onnx_graph import OPSET, InferenceGraph, count_macs, run_onnx, write_onnx
from training.provenance import git_revision
from training.recipes import TrainConfig

GATE_IMAGES = 1_000
GATE_BATCH_SIZES = (1, 2, 7, 256)
GATE_TOLERANCE = 1e-5


def export(
    run: Path, target: Path, data: TrainingData, *, description: str = "", notes: tuple[str, ...] = ()
) -> ModelMetadata:
    """Export the finished run in `run` to `target` = models/<name>/<version>.

    Raises `CheckpointError` for an unfinished run, `ExportError` when the version exists or ONNX and torch disagree.
    """
    saved = checkpoints.load_finished(run)
    if target.exists():
        raise ExportError(f"{target} exists, and versions never change; export to the next version.")
    network = checkpoints.network_of(saved)
    validation = data.validation
    temperature = fit_temperature(torch_logits(network, validation.images), validation.labels)
    graph = InferenceGraph(network, temperature)

    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent))
    try:
        metadata = _fill(folder, saved, network, graph, temperature, data, target, description, notes)
        folder.chmod(0o755)
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return metadata


def torch_logits(network: Network, images: Tensor) -> Tensor:
    """Logits of the unfolded network in float32 on the CPU: what every exported file is compared with."""
    return logits_of(network, images, torch.device("cpu"), Precision.FP32)


def _fill(
    folder: Path,
    saved: Checkpoint,
    network: Network,
    graph: InferenceGraph,
    temperature: float,
    data: TrainingData,
    target: Path,
    description: str,
    notes: tuple[str, ...],
) -> ModelMetadata:
    name, number = target.parent.name, target.name
    _, height, width, _ = data.validation.images.shape
    onnx_file, golden_file = folder / "model.onnx", folder / "golden.npz"
    properties = {
        "name": name,
        "version": number,
        "labels": ",".join(saved.labels),
        "temperature": repr(temperature),
    }
    write_onnx(graph, onnx_file, height=height, width=width, properties=properties)
    check_against_torch(
        onnx_file, network, temperature, torch.cat([data.validation.images, data.train.images[:GATE_IMAGES]])
    )

    pictures = golden.pictures(height, width)
    probabilities = torch.softmax(torch_logits(network, torch.from_numpy(pictures)) / temperature, 1)
    golden.save(golden_file, pictures, probabilities.numpy())

    evaluation = evaluate_probabilities(
        run_onnx(onnx_file, data.validation.images.numpy()),
        data.validation.labels,
        labels=saved.labels,
        temperature=temperature,
        split="validation",
        command=f"convoy-train export runs/{saved.recipe}-{saved.config.seed} models/{name}/{number}",
    )
    metadata = ModelMetadata(
        name=name,
        version=number,
        description=description,
        architecture=saved.config.architecture,
        labels=saved.labels,
        input=InputSpec(height=height, width=width),
        parameters=sum(p.numel() for p in network.parameters()),
        macs=count_macs(graph, height=height, width=width),
        files={"fp32": FileRecord.of(onnx_file)},
        golden=FileRecord.of(golden_file),
        calibration=Calibration(
            temperature=temperature, fitted_on=f"{len(data.validation):,} training images kept for validation"
        ),
        evaluations=(evaluation,),
        notes=notes,
        provenance=_provenance(saved),
    )
    metadata.write(folder)
    report.write_card(metadata, folder)
    return metadata


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


def _provenance(saved: Checkpoint) -> Provenance:
    return Provenance(
        dataset="CIFAR-10, 45,000 training images (5,000 more for validation)",
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
            **{package: version(package) for package in ("torch", "onnx", "onnxscript", "onnxruntime")},
        },
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _plain(config: TrainConfig) -> TrainingConfig:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
