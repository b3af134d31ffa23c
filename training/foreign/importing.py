"""A network from elsewhere, as an ONNX file → a version in the model repository, or nothing at all.

What the service needs is put around the network: the way from pixels to what it takes, a calibrated softmax, golden
samples, metadata. With pictures that it has not learned from, its probabilities are made honest and measured, and there
are an fp16 file for GPUs and an int8 file for CPUs if those are right about as often; without any they stay what they
are. What can't be imported raises `ExportError`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor

from service.metadata import (
    Calibration,
    FileRecord,
    InputSpec,
    ModelMetadata,
    Provenance,
    Scaling,
)
from training import golden, report
from training.calibrate import NOTHING
from training.data import TrainingData
from training.errors import ExportError
from training.foreign import graph, wrapping
from training.foreign.files import Measured, measure, networks_of, write_calibrated
from training.foreign.shapes import settled, works_out_shapes
from training.foreign.source import Source, all_but_test
from training.model_files import GATE_TOLERANCE, NAMES, ModelFile
from training.onnx_graph import run_onnx
from training.repository import check_target, new_version

BATCH_SIZES = (1, 2, 7)
RECIPE = "imported"
SHAPES_LEFT = (
    "The network works out shapes while it runs, which ONNX Runtime does on the CPU: it can't be served on a GPU."
)
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
    if not (answers < np.inf).all():  # nor is a NaN
        raise ExportError(
            "The network's answers to generated pictures are not finite numbers: its weights are damaged, or it was "
            "trained with another --mean and --std. Nothing was written."
        )
    foreign = settled(foreign)
    if works_out_shapes(foreign):
        notes = (*notes, SHAPES_LEFT)
    if answers.min() >= 0 and np.allclose(answers.sum(1), 1, atol=1e-3):
        foreign = wrapping.from_probabilities(foreign)
        answers = np.log(np.maximum(answers, wrapping.SMALLEST))
    with new_version(target) as folder:
        expected = pictures, torch.from_numpy(answers)
        metadata = _fill(folder, replace(source, network=foreign), expected, target, data, description, notes)
        metadata.write(folder)
        report.write_card(metadata, folder)
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
    (pictures, logits_of_pictures), images = expected, None if data is None else all_but_test(data, labels)
    network = wrapping.with_way_in(foreign, source.normalisation)
    own = write_calibrated(folder / NAMES["fp32"], network, properties, labels)
    _check(own, pictures, logits_of_pictures)  # before any other pictures are run through it
    measured = Measured({"fp32": own})
    if data is not None and images is not None:
        networks, refusals = networks_of(foreign, source.normalisation, images)
        calibrated = {
            precision: write_calibrated(folder / NAMES[precision], each, properties, labels, images)
            for precision, each in networks.items()
        }
        _check(calibrated["fp32"], pictures, logits_of_pictures)
        command = source.command(f"models/{name}/{number}", data)
        measured, notes = measure(calibrated, images, labels, command), (*notes, *refusals)
    files, reference = measured.files, measured.files["fp32"].calibrator
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
        golden=FileRecord.of(golden.write(folder, pictures, reference(logits_of_pictures), files)),
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


def _check(file: ModelFile, pictures: npt.NDArray[np.uint8], logits: Tensor) -> None:
    """Raise `ExportError` unless the file gives what the network gave of one image at a time, in batches too."""
    expected = file.calibrator(logits)
    for batch_size in BATCH_SIZES:
        try:
            got = run_onnx(file.path, pictures, batch_size)
        except Exception as exc:  # ONNX Runtime's own kinds are many, and private
            raise ExportError(_not_batched(batch_size)) from exc
        if got.shape != expected.shape:  # it takes the images of a batch for parts of one
            raise ExportError(_not_batched(batch_size))
        difference = float(np.abs(got - expected.numpy()).max())
        if difference <= GATE_TOLERANCE:
            continue
        told = f"by up to {difference:.1e} (allowed: {GATE_TOLERANCE:.0e})"  # a NaN is a difference too
        if batch_size == 1:
            raise ExportError(
                f"Asked again about one image, the network gives probabilities that differ {told}; export it for "
                "inference, without dropout or noise. Nothing was written."
            )
        raise ExportError(
            f"With {batch_size} images at a time the network's probabilities differ from those of one {told}: what it "
            "says of an image must not depend on others. Nothing was written."
        )


def _not_batched(batch_size: int) -> str:
    return (
        f"The network does not run with {batch_size} images at a time; export it again with a batch axis that is "
        "dynamic. Nothing was written."
    )


def _provenance(source: Source) -> Provenance:
    files = [str(file.relative_to(source.path.parent)) for file in source.files]
    return Provenance(
        dataset=f"imported from {source.path.name}",
        recipe=RECIPE,
        config={
            **({"files": files} if len(files) > 1 else {}),
            "sha256": source.digest,
            "mean": [str(value) for value in source.normalisation.mean],
            "std": [str(value) for value in source.normalisation.std],
        },
        epochs=0,
        training={},
        export={"onnx": version("onnx"), "onnxruntime": onnxruntime.__version__},  # whose package has several names
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
