"""What the command line names → an ONNX file and what is not in it: labels, normalisation, pictures.

What does not fit together raises `ExportError`.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from training.data import Split, TrainingData
from training.errors import ExportError
from training.folders import composed
from training.foreign.graph import Foreign
from training.foreign.wrapping import Normalisation


@dataclass(frozen=True)
class Source:
    """An ONNX file, the network in it, and what is not in it."""

    path: Path
    network: Foreign
    labels: tuple[str, ...]  # in the order of the network's outputs
    normalisation: Normalisation
    labels_file: str = "labels.txt"  # that they are in

    @property
    def size(self) -> int:
        """Pixels of the height and width of its images; raises `ExportError` where they differ: no pictures fit."""
        height, width = self.network.height, self.network.width
        if height != width:
            raise ExportError(f"The network takes images of {width} × {height}; with --data they must be square.")
        return height

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The ONNX file, and those beside it that hold weights of it, by name."""
        tensors = _tensors(onnx.load(self.path, load_external_data=False).graph)
        beside = {ExternalDataInfo(tensor).location for tensor in tensors if uses_external_data(tensor)}
        return (self.path, *(self.path.parent / name for name in sorted(beside)))

    @property
    def digest(self) -> str:
        """SHA-256 of these files, one after the other."""
        digest = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as stream:
                hashlib.file_digest(stream, lambda: digest)
        return digest.hexdigest()

    def command(self, model: str, data: TrainingData) -> str:
        """What imports it to `model` with `data`, for others to read: all that decides what is measured."""
        words = ["convoy-train", "import", self.path.name, model, "--labels", self.labels_file]
        words += ["--mean", *map(str, self.normalisation.mean), "--std", *map(str, self.normalisation.std)]
        return shlex.join([*words, "--size", str(self.size), *data.option])


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Its constants, in graphs within it too."""
    yield from graph.initializer
    for attribute in (each for node in graph.node for each in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for within in (attribute.g, *attribute.graphs):
            yield from _tensors(within)


def read_labels(path: Path) -> tuple[str, ...]:
    """One class per line, in the order of the network's outputs; raises `ExportError`."""
    try:
        lines = composed(path.read_text(encoding="utf-8-sig")).splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ExportError(f"{path} can't be read as text; give a file with one class per line.") from exc
    labels = tuple(line.strip() for line in lines if line.strip())
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise ExportError(f"{path} must name at least two classes, one per line, none of them twice.")
    return labels


def all_but_test(data: TrainingData, labels: tuple[str, ...]) -> Split:
    """All pictures but those of the test part, their numbers those of `labels`; raises `ExportError` for others."""
    if sorted(data.labels) != sorted(labels):
        others = ", ".join(sorted(set(data.labels) ^ set(labels))[:6])
        raise ExportError(
            f"The network's labels differ from the classes of {data.name}: {others}. Give both the same classes."
        )
    return data.whole().train.renumbered(data.labels, labels)
