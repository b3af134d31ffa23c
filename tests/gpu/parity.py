"""The same pictures on the CPU in fp32 and on the GPU: the same labels, nearly the same probabilities."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import numpy as np
import onnxruntime

from service.binding import BoundBatch
from service.metadata import INPUT, OUTPUT, Precision
from service.providers import open_session
from service.types import Probabilities, Rows
from tests.gpu.report import Row, at_least, at_most
from tests.gpu.subject import Context, generated, pictures, session
from tests.training.foreign.networks import LABELS, SIZE, counted, network

BATCH = 512
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
IMPORTED_PICTURES, IMPORTED_TOLERANCE = 600, 0.01
FP32_TOLERANCE, FP16_SAME, ACCURACY_POINTS = 1e-4, 99.9, 0.05


def fp32(context: Context) -> Iterator[Row]:
    """With TF32 off."""
    return _compare(context, "fp32")


def fp16(context: Context) -> Iterator[Row]:
    """On the CPU too, where it is slow but there."""
    return _compare(context, "fp16")


def imported(context: Context) -> Iterator[Row]:
    """A network from elsewhere whose exporter left shapes in it to be worked out: all of it must run on the device."""
    import torch

    from training.data import Split, TrainingData
    from training.foreign.graph import read
    from training.foreign.importing import import_network
    from training.foreign.source import Source
    from training.foreign.wrapping import Normalisation

    images = generated(IMPORTED_PICTURES)[:, :SIZE, :SIZE]
    split = Split(torch.from_numpy(images), torch.from_numpy(images.mean((1, 2)).argmax(1)))
    file, target = network(context.work / "foreign.onnx", end=counted()), context.work / "foreign" / "colours" / "1"
    shutil.rmtree(target.parent, ignore_errors=True)
    source = Source(file, read(file), LABELS, Normalisation())
    metadata = import_network(source, target, TrainingData(split, split, LABELS))
    files = {precision: target / record.name for precision, record in metadata.files.items()}
    expected = _on_cpu(open_session(files, "cpu", "fp32", 0).session, images)
    for precision in PRECISIONS:
        of = open_session(files, context.device, precision, 0).session
        got = _on_device(of, context.device, images) if context.device == "cuda" else _on_cpu(of, images)
        where = f"{precision} on {context.device}"
        difference = float(np.abs(got - expected).max())
        yield at_most(IMPORTED_TOLERANCE, f"{where}: largest difference of a probability, imported network", difference)


def _compare(context: Context, precision: Precision) -> Iterator[Row]:
    images, labels = pictures(context)
    expected = _on_cpu(session(context, "fp32", device="cpu"), images)
    if context.device == "cuda":
        got = _on_device(session(context, precision), context.device, images)
    else:
        got = _on_cpu(session(context, precision), images, batch=7)  # other batches are summed in another order
    where = f"{precision} on {context.device}"
    same = 100 * float((got.argmax(1) == expected.argmax(1)).mean())
    difference = float(np.abs(got - expected).max())
    yield Row(
        f"{where}: pictures compared with fp32 on cpu", len(images), note="" if labels is not None else "generated"
    )
    yield at_least(100.0 if precision == "fp32" else FP16_SAME, f"{where}: same label", same, "%")
    if precision == "fp32":
        yield at_most(FP32_TOLERANCE, f"{where}: largest difference of a probability", difference)
    else:
        yield Row(f"{where}: largest difference of a probability", difference)
    yield at_most(1e-3, f"{where}: rows sum to 1 but for", float(np.abs(got.sum(1) - 1).max()))
    if labels is not None:
        accuracy, reference = (100 * float((p.argmax(1) == labels).mean()) for p in (got, expected))
        yield Row(f"{where}: accuracy", accuracy, "%")
        yield at_most(ACCURACY_POINTS, f"{where}: accuracy differs by", abs(accuracy - reference), "points")


def _on_cpu(of: onnxruntime.InferenceSession, images: Rows, batch: int = BATCH) -> Probabilities:
    return np.concatenate([of.run([OUTPUT], {INPUT: images[i : i + batch]})[0] for i in range(0, len(images), batch)])


def _on_device(of: onnxruntime.InferenceSession, memory: str, images: Rows) -> Probabilities:
    batch = BoundBatch(of, memory, images.shape[1:], BATCH)
    return np.concatenate([batch.run(images[i : i + BATCH]) for i in range(0, len(images), BATCH)])
