"""CIFAR-10's own batch files, python and binary version → their 10,000 images each, with their labels.

The python version is pickled; nothing is unpickled here: its constants are read from the listing of its opcodes.
Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from service.errors import InvalidSource
from service.jobs.inputs import Input, Limits
from service.types import RGBImage

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32
FILE_NAME = re.compile(r"(data_batch_[1-5]|test_batch)(\.bin)?")
MOST_BYTES = 64 << 20


def cifar_inputs(stream: BinaryIO, size: int, _limits: Limits) -> Iterator[Input]:
    """The images of one batch file, as pixels."""
    if size > MOST_BYTES:
        raise InvalidSource("The file is no batch of CIFAR-10: it is too large.")
    content = stream.read(size)
    labels, pixels = _from_pickle(content) if content[:2] == b"\x80\x02" else _from_records(content)
    for index, (label, row) in enumerate(zip(labels.tolist(), pixels, strict=True)):
        yield Input(str(index), partial(_image, row), LABELS[label])


def _image(row: npt.NDArray[np.uint8]) -> RGBImage:
    return np.ascontiguousarray(row.reshape(3, 32, 32).transpose(1, 2, 0))  # planes → (H, W, C)


def _from_records(content: bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    if not content or len(content) % (1 + PIXELS):
        raise InvalidSource("The file is no batch of CIFAR-10: its size is not that of whole records.")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return _checked(records[:, 0], records[:, 1:])


def _from_pickle(content: bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    labels: list[int] = []
    pixels, key = b"", ""
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "SHORT_BINSTRING" and argument in ("labels", "data", "batch_label", "filenames"):
                key = argument
            elif argument is None:
                continue
            elif opcode.name == "BININT1" and key == "labels":
                labels.append(argument)
            elif opcode.name == "BINSTRING" and key == "data":
                pixels = argument.encode("latin-1")
    except ValueError as exc:
        raise InvalidSource("The file is no batch of CIFAR-10, or a damaged one.") from exc
    if not labels or len(pixels) != len(labels) * PIXELS:
        raise InvalidSource("The file is no batch of CIFAR-10, or a damaged one.")
    return _checked(np.asarray(labels, np.uint8), np.frombuffer(pixels, np.uint8).reshape(-1, PIXELS))


def _checked(
    labels: npt.NDArray[np.uint8], pixels: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    if labels.max() >= len(LABELS):
        raise InvalidSource("The file is no batch of CIFAR-10: it has labels beyond the ten.")
    return labels, pixels
