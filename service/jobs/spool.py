"""A batch's inputs, read once from its upload → two files from which any of them can be read again, by any process.

`inputs` holds one record after the other: the lengths of its two parts as uint32, what is known of the input as JSON,
and its bytes. `offsets` holds where each begins, and where the last one ends, as uint64. All little-endian.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import orjson

from service.errors import InvalidImage
from service.jobs.inputs import Budget

INPUTS, OFFSETS = "inputs", "offsets"
READ_BYTES = 32 << 20
RESULT_BYTES = 256  # what an input's row of results takes, about, before the model's labels are looked at
REST_BYTES, PROBABILITY_BYTES = 128, 17  # of a row: index, id and label; and of each class without its name
SET_MEMBER_BYTES = 3  # of a class in a prediction set, without its name
LENGTHS, OFFSET = struct.Struct("<2L"), struct.Struct("<Q")


class SpoolWriter:
    """Writes the inputs into a folder, those of an earlier attempt away. When its body raises nothing is left of them.

    What `budget` does not hold, with the row of results that each input will get, is not written: `InvalidSource`.
    """

    def __init__(self, folder: Path, budget: Budget | None = None) -> None:
        self._folder, self._budget = folder, budget
        self._inputs, self._offsets = (folder / INPUTS).open("wb"), (folder / OFFSETS).open("wb")
        self._offsets.write(OFFSET.pack(0))
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exception: object) -> None:
        with ExitStack() as stack:  # to the last, though each may find the disk full
            if kind is not None:
                stack.callback((self._folder / INPUTS).unlink, missing_ok=True)
                stack.callback((self._folder / OFFSETS).unlink, missing_ok=True)
            stack.callback(self._inputs.close)
            stack.callback(self._offsets.close)

    def add(self, id_: str | None, content: bytes | InvalidImage) -> None:
        """Write one input, or why there is nothing to score."""
        about: dict[str, str | None] = {"id": id_}
        if isinstance(content, InvalidImage):
            about["error"], content = content.detail, b""
        head = orjson.dumps(about)
        if self._budget is not None:  # of an error or an empty image too: a few bytes may be a million of them
            self._budget.spend(LENGTHS.size + len(head) + len(content) + OFFSET.size + RESULT_BYTES)
        self._inputs.write(LENGTHS.pack(len(head), len(content)))
        self._inputs.write(head)
        self._inputs.write(content)
        self._offsets.write(OFFSET.pack(self._inputs.tell()))
        self.count += 1

    def sync(self) -> None:
        """Bring everything to the disk."""
        for file in (self._inputs, self._offsets):
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self._folder)


def sync_folder(folder: Path) -> None:
    """Bring the folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def row_bytes(labels: Sequence[str], top_k: int | None, set_size: float = 0) -> int:
    """What an input's row of results takes, about: all labels, or `top_k`, and a prediction set of so many."""
    named = len(labels) if top_k is None else min(top_k, len(labels))
    names_bytes = sum(len(label.encode()) for label in labels)
    all_bytes = names_bytes + PROBABILITY_BYTES * len(labels)
    set_bytes = math.ceil(set_size * (names_bytes / len(labels) + SET_MEMBER_BYTES))
    return REST_BYTES + all_bytes * named // len(labels) + set_bytes


def size(folder: Path) -> int:
    """Bytes of the inputs that are kept there."""
    return sum((folder / name).stat().st_size for name in (INPUTS, OFFSETS))


class Damaged(Exception):
    """What is on the disk is not what was written."""


def read(
    folder: Path, first: int, count: int, *, most_bytes: int = READ_BYTES
) -> tuple[list[str | None], list[bytes | InvalidImage]]:
    """Ids and contents of inputs from `first` on: of one at least, and of no more than `count` or than there are.

    Beyond the first there are only as many as `most_bytes` hold: photos are a thousand times larger than thumbnails.
    Raises `Damaged` where they are not there, or not whole, and `OSError`.
    """
    try:
        offsets = _offsets(folder, first, count, most_bytes)
        with (folder / INPUTS).open("rb") as file:
            file.seek(offsets[0])
            content = memoryview(file.read(offsets[-1] - offsets[0]))
        bounds = [at - offsets[0] for at in offsets]
        records = [_record(content[start:end]) for start, end in pairwise(bounds)]
    except (struct.error, LookupError, TypeError, ValueError) as exc:  # orjson's error is of the last kind
        raise Damaged(f"the inputs in {folder} are damaged") from exc
    return [id_ for id_, _ in records], [content for _, content in records]


def _offsets(folder: Path, first: int, count: int, most_bytes: int) -> list[int]:
    """Where the inputs begin, and where the last one ends; raises `ValueError` or `struct.error`."""
    with (folder / OFFSETS).open("rb") as file:
        file.seek(first * OFFSET.size)
        offsets = [at for (at,) in OFFSET.iter_unpack(file.read((count + 1) * OFFSET.size))]
    if len(offsets) < 2 or offsets != sorted(offsets) or offsets[-1] > (folder / INPUTS).stat().st_size:
        raise ValueError("there are no such inputs")
    return [at for place, at in enumerate(offsets) if place < 2 or at - offsets[0] <= most_bytes]


def _record(record: memoryview) -> tuple[str | None, bytes | InvalidImage]:
    """An input's id and content; raises as `read` takes for damage."""
    head_bytes, content_bytes = LENGTHS.unpack_from(record)
    head_end = LENGTHS.size + head_bytes
    if head_end + content_bytes != len(record):
        raise ValueError("an input has another length")
    about: dict[str, Any] = orjson.loads(record[LENGTHS.size : head_end])
    return about["id"], InvalidImage(about["error"]) if "error" in about else bytes(record[head_end:])


class SyncedFile:
    """A file that is on the disk once `sync` returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._file.close()

    def write(self, content: bytes) -> None:
        """Append."""
        self._file.write(content)

    def sync(self) -> None:
        """Bring everything to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
