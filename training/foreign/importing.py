"""A network from elsewhere, as an ONNX file → a version in the model repository, or nothing at all.

What the service needs is put around the network: the way from pixels to what it takes, a calibrated softmax, golden
samples, metadata. With pictures that it has not learned from, its probabilities are made honest and measured, and there
is an int8 file if that is right about as often; without any they stay what they are. What can't be imported raises
`ExportError`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor

from service.metadata import (
    Calibration,
    Evaluation,
    FileRecord,
    InputSpec,
    ModelMetadata,
    Precision,
    Provenance,
    Scaling,
)
from training import golden, report
from training.calibrate import NOTHING, Calibrator, conformal_thresholds, fit
from training.data import Split, TrainingData
from training.errors import ExportError
from training.evaluate import evaluate_probabilities
from training.export import check_target
from training.foreign import graph, wrapping
from training.foreign.int8 import quantized
from training.foreign.source import Source, held_out
from training.model_files import GATE_TOLERANCE, NAMES, ModelFile, loses
from training.onnx_graph import run_onnx, run_onnx_with_logits

BATCH_SIZES = (1, 2, 7)
RECIPE = "imported"
SMALL_PIXELS, FEWER_PICTURES = 128 * 128, 8  # golden pictures of larger images would take long and much room


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
    foreign = source.network
    small = foreign.height * foreign.width <= SMALL_PIXELS
    pictures = golden.pictures(foreign.height, foreign.width, golden.PICTURES if small else FEWER_PICTURES)
    answers = foreign.run(source.normalisation(pictures))
    if answers.shape[1] != len(source.labels):
        raise ExportError(f"The network has {answers.shape[1]:,} outputs, and there are {len(source.labels):,} labels.")
    if answers.min() >= 0 and np.allclose(answers.sum(1), 1, atol=1e-3):
        foreign = wrapping.from_probabilities(foreign)
        answers = np.log(np.maximum(answers, wrapping.SMALLEST))
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".import-", dir=target.parent))
    try:
        expected = pictures, torch.from_numpy(answers)
        metadata = _fill(folder, replace(source, network=foreign), expected, target, data, description, notes)
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
    expected: tuple[npt.NDArray[np.uint8], Tensor],  # golden pictures, and the network's logits of them
    target: Path,
    data: TrainingData | None,
    description: str,
    notes: tuple[str, ...],
) -> ModelMetadata:
    foreign, labels = source.network, source.labels
    name, number = target.parent.name, target.name
    properties = {"name": name, "version": number, "labels": ",".join(labels)}
    (pictures, logits_of_pictures), images = expected, None if data is None else held_out(data, labels)
    network = wrapping.with_way_in(foreign, source.normalisation)
    own = _write(folder / NAMES["fp32"], network, properties, labels)
    _check(own, pictures, logits_of_pictures)  # before any other pictures are run through it
    measured = Measured({"fp32": own})
    if images is not None:
        networks, refusals = _networks(network, images)
        calibrated = {
            precision: _write(folder / NAMES[precision], each, properties, labels, images)
            for precision, each in networks.items()
        }
        _check(calibrated["fp32"], pictures, logits_of_pictures)
        command = f"convoy-train import {source.path.name} models/{name}/{number}"
        measured, notes = _measure(calibrated, images, labels, command), (*notes, *refusals)
    files, reference = measured.files, measured.files["fp32"].calibrator
    others: dict[Precision, npt.NDArray[np.float32]] = {
        precision: file.probabilities(pictures) for precision, file in files.items() if precision != "fp32"
    }
    golden.save(folder / "golden.npz", pictures, reference(logits_of_pictures).numpy(), others)
    return ModelMetadata(
        name=name,
        version=number,
        description=description,
        architecture=source.path.stem,
        labels=labels,
        input=InputSpec(height=foreign.height, width=foreign.width),
        parameters=max(1, graph.parameters(foreign)),
        macs=max(1, graph.count_macs(foreign)),
        files={precision: FileRecord.of(file.path) for precision, file in files.items()},
        golden=FileRecord.of(folder / "golden.npz"),
        calibration=Calibration(
            **dataclasses.asdict(reference),
            fitted_on=NOTHING if images is None or data is None else f"{len(images):,} pictures of {data.name}",
            others={
                precision: Scaling(**dataclasses.asdict(file.calibrator))
                for precision, file in files.items()
                if precision != "fp32"
            },
            thresholds=measured.thresholds,
        ),
        evaluations=tuple(measured.evaluations),
        notes=(*notes, *measured.notes),
        provenance=_provenance(source),
    )


def _networks(network: onnx.ModelProto, images: Split) -> tuple[dict[Precision, onnx.ModelProto], tuple[str, ...]]:
    """`network` and, where it can be made, its integer form; or why not."""
    try:
        return {"fp32": network, "int8": quantized(network, images.images.numpy())}, ()
    except ExportError as exc:
        return {"fp32": network}, (str(exc),)


@dataclass(frozen=True)
class Measured:
    """The files that stay, and what they were worth on the pictures that they were calibrated on."""

    files: dict[Precision, ModelFile] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    thresholds: dict[Precision, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _measure(files: dict[Precision, ModelFile], images: Split, labels: tuple[str, ...], command: str) -> Measured:
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
                f"An int8 file was right about {evaluation.accuracy:.2%} of these pictures, the fp32 file about "
                f"{measured.evaluations[0].accuracy:.2%}: it was left out."
            )
            file.path.unlink()
        else:
            measured.files[precision] = file
            measured.evaluations.append(evaluation)
            measured.thresholds[precision] = thresholds
    return measured


def _write(
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


def _check(file: ModelFile, pictures: npt.NDArray[np.uint8], logits: Tensor) -> None:
    """Raise `ExportError` unless the file gives what the network gave of one image at a time, in batches too."""
    expected = file.calibrator(logits)
    for batch_size in BATCH_SIZES:
        try:
            got = run_onnx(file.path, pictures, batch_size)
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
        export={"onnx": version("onnx"), "onnxruntime": onnxruntime.__version__},  # whose package has several names
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
