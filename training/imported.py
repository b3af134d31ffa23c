"""A network from elsewhere, as an ONNX file → a version in the model repository, or nothing at all.

What the service needs is put around the network: the way from pixels to what it takes, a calibrated softmax, golden
samples, metadata. With pictures that it has not learned from, its probabilities are made honest and measured; without
any they stay what they are. What can't be imported raises `ExportError`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor

from service.metadata import Calibration, Evaluation, FileRecord, InputSpec, ModelMetadata, Provenance
from training import foreign_graph, golden, report
from training.calibrate import Calibrator, conformal_thresholds, fit
from training.data import Split, TrainingData
from training.errors import ExportError
from training.evaluate import evaluate_probabilities
from training.export import check_target
from training.foreign_graph import Foreign, Normalisation
from training.model_files import GATE_TOLERANCE, NAMES, ModelFile
from training.onnx_graph import run_onnx, run_onnx_with_logits

BATCH_SIZES = (1, 2, 7)
RECIPE = "imported"
SMALL_PIXELS, FEWER_PICTURES = 128 * 128, 8  # golden pictures of larger images would take long and much room


@dataclass(frozen=True)
class Source:
    """An ONNX file and what is not in it."""

    path: Path
    labels: tuple[str, ...]  # in the order of the network's outputs
    normalisation: Normalisation
    size: int | None = None  # of its images, where the file leaves it open


def read_labels(path: Path) -> tuple[str, ...]:
    """One class per line, in the order of the network's outputs; raises `ExportError`."""
    try:
        labels = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as exc:
        raise ExportError(f"{path} can't be read as text; give a file with one class per line.") from exc
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise ExportError(f"{path} must name at least two classes, one per line, none of them twice.")
    return labels


def held_out(data: TrainingData, labels: tuple[str, ...]) -> Split:
    """All pictures but those of the test part, their numbers those of `labels`; raises `ExportError` for others."""
    if sorted(data.labels) != sorted(labels):
        others = ", ".join(sorted(set(data.labels) ^ set(labels))[:6])
        raise ExportError(
            f"The pictures of {data.name} are not of the network's classes: {others} is on one side only."
        )
    return data.whole().train.renumbered(data.labels, labels)


def size_of(source: Source) -> int:
    """Pixels of the height and width of its images; raises `ExportError` where they differ: no pictures are made so."""
    foreign = foreign_graph.read(source.path, source.size)
    if foreign.height != foreign.width:
        raise ExportError(
            f"The network takes images of {foreign.width} × {foreign.height}; with --data they must be square."
        )
    return foreign.height


def import_network(
    source: Source,
    target: Path,
    data: TrainingData | None = None,
    *,
    description: str = "",
    notes: tuple[str, ...] = (),
) -> ModelMetadata:
    """Import `source` to `target` = models/<name>/<version>, calibrated on `data` where there is any."""
    check_target(target)
    foreign = foreign_graph.read(source.path, source.size)
    small = foreign.height * foreign.width <= SMALL_PIXELS
    pictures = golden.pictures(foreign.height, foreign.width, golden.PICTURES if small else FEWER_PICTURES)
    answers = foreign.run(source.normalisation(pictures))
    if answers.shape[1] != len(source.labels):
        raise ExportError(f"The network has {answers.shape[1]:,} outputs, and there are {len(source.labels):,} labels.")
    if answers.min() >= 0 and np.allclose(answers.sum(1), 1, atol=1e-3):
        foreign = foreign_graph.from_probabilities(foreign)
        answers = np.log(np.maximum(answers, foreign_graph.SMALLEST))
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".import-", dir=target.parent))
    try:
        metadata = _fill(folder, source, foreign, (pictures, torch.from_numpy(answers)), target, data)
        metadata = metadata.model_copy(update={"description": description, "notes": notes})
        metadata.write(folder)
        report.write_card(metadata, folder)
        folder.chmod(0o755)
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return metadata


def _fill(
    folder: Path,
    source: Source,
    foreign: Foreign,
    expected: tuple[npt.NDArray[np.uint8], Tensor],  # golden pictures, and the network's logits of them
    target: Path,
    data: TrainingData | None,
) -> ModelMetadata:
    name, number, labels = target.parent.name, target.name, source.labels
    properties = {"name": name, "version": number, "labels": ",".join(labels)}
    file = folder / NAMES["fp32"]

    def write(calibrator: Calibrator) -> ModelFile:
        model = foreign_graph.wrapped(foreign, source.normalisation, calibrator, properties, classes=len(labels))
        onnx.save_model(model, str(file), save_as_external_data=False)
        return ModelFile(file, calibrator)

    written, fitted_on = write(Calibrator()), "nothing: these are the network's own probabilities"
    thresholds: dict[str, float] = {}
    evaluations: tuple[Evaluation, ...] = ()
    if data is not None:
        images = held_out(data, labels)
        _, logits = run_onnx_with_logits(file, images.images.numpy())
        written = write(fit(torch.from_numpy(logits), images.labels))
        fitted_on = f"{len(images):,} pictures of {data.name}"
        p, uncalibrated = written.answers(images.images.numpy())
        thresholds = conformal_thresholds(p, uncalibrated, images.labels, pictures=len(images))
        evaluation = evaluate_probabilities(
            p, uncalibrated, images.labels, labels=labels, thresholds=thresholds, split="validation", precision="fp32",
            command=f"convoy-train import {source.path.name} models/{name}/{number}",
        )  # fmt: skip
        evaluations = (evaluation,)
    pictures, logits_of_pictures = expected
    _check(file, pictures, written.calibrator(logits_of_pictures))
    golden.save(folder / "golden.npz", pictures, written.calibrator(logits_of_pictures).numpy(), {})
    return ModelMetadata(
        name=name,
        version=number,
        description="",
        architecture=source.path.stem,
        labels=labels,
        input=InputSpec(height=foreign.height, width=foreign.width),
        parameters=max(1, foreign_graph.parameters(foreign)),
        macs=max(1, foreign_graph.count_macs(foreign)),
        files={"fp32": FileRecord.of(file)},
        golden=FileRecord.of(folder / "golden.npz"),
        calibration=Calibration(
            **dataclasses.asdict(written.calibrator),
            fitted_on=fitted_on,
            thresholds={"fp32": thresholds} if thresholds else {},
        ),
        evaluations=evaluations,
        provenance=_provenance(source),
    )


def _check(file: Path, pictures: npt.NDArray[np.uint8], expected: Tensor) -> None:
    """Raise `ExportError` unless the file gives what the network gave of one image at a time, in batches too."""
    for batch_size in BATCH_SIZES:
        try:
            got = run_onnx(file, pictures, batch_size)
        except Exception as exc:  # ONNX Runtime's own kinds are many, and private
            raise ExportError(
                f"The network does not run with {batch_size} images at a time; export it again with a batch axis that "
                "is dynamic. Nothing was written."
            ) from exc
        difference = float(np.abs(got - expected.numpy()).max())
        if not difference <= GATE_TOLERANCE:  # `not <=`: a NaN is a difference too
            raise ExportError(
                f"With {batch_size} images at a time the network's probabilities differ from those of one by up to "
                f"{difference:.1e} (allowed: {GATE_TOLERANCE:.0e}): what it says of an image must not depend on "
                "others. Nothing was written."
            )


def _provenance(source: Source) -> Provenance:
    return Provenance(
        dataset=f"imported from {source.path.name}",
        recipe=RECIPE,
        config={
            "sha256": hashlib.sha256(source.path.read_bytes()).hexdigest(),
            "mean": [str(value) for value in source.normalisation.mean],
            "std": [str(value) for value in source.normalisation.std],
        },
        epochs=0,
        training={},
        export={package: version(package) for package in ("onnx", "onnxruntime")},
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
