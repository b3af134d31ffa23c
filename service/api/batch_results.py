"""A batch's rows → the body of an answer: in any format, those that there are, or followed to the end, or a part."""

from __future__ import annotations

import asyncio
import re
from asyncio import to_thread
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Send

from service.api import examples
from service.errors import BatchNotFound, RangeNotSatisfiable, StorageFailed
from service.jobs.database import Batch
from service.jobs.results import RESULTS, Encoder

BLOCK = 256 << 10
POLL_S = 0.25  # another process's work can't be awaited
RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")
DIGITS = 19  # more are more than any file has bytes
Look = Callable[[], Awaitable[Batch]]

BINARY = {"type": "string", "format": "binary"}
DESCRIBED: dict[str, dict[str, Any]] = {  # of each format, for OpenAPI
    "ndjson": {
        "schema": {"type": "string", "description": "A `ResultRow` as JSON in each line."},
        "example": examples.NDJSON,
    },
    "csv": {
        "schema": {"type": "string", "description": "A line of names, then one for each row; a column for each class."},
        "example": examples.CSV,
    },
    "parquet": {
        "schema": BINARY
        | {"description": "The columns are a `ResultRow`'s fields; `probabilities` and `error` are structs."}
    },
}
CONTENT = {each.media_type: DESCRIBED[name] for name, each in RESULTS.items()}


class BrokenOff(Exception):
    """Rows that were to come will not: the batch failed or was deleted, they are lost, or this process stops."""


class Rows(StreamingResponse):
    """An answer that is cut off, without the last chunk, where its rows break off: else they would seem to be all."""

    async def stream_response(self, send: Send) -> None:
        """Part of Starlette's class."""
        with suppress(BrokenOff, FileNotFoundError):  # the server closes the connection of an answer without an end
            await super().stream_response(send)


def parse_range(header: str | None, size: int, *, grows: bool) -> tuple[int, int] | None:
    """The first byte and the one behind the last of `size` (RFC 9110, section 14.2); None: everything.

    Several ranges at once, another unit and what is no range are answered with everything. Raises
    `RangeNotSatisfiable`.
    """
    found = RANGE.fullmatch(header.replace(" ", "")) if header else None
    if not found or found.groups() == ("", ""):
        return None
    first, last = (int(text.lstrip("0")[:DIGITS] or 0) if text else None for text in found.groups())
    if first is not None and last is not None and last < first:
        return None
    if first is None:
        start, stop = max(0, size - (last or 0)), size
    else:
        start, stop = first, size if last is None else min(last + 1, size)
    if start >= stop:
        detail = f"There are {size:,} bytes of results so far; ask for a part of them."
        raise RangeNotSatisfiable(detail, size=None if grows else size)
    return start, stop


async def read_bytes(path: Path, start: int, stop: int) -> AsyncIterator[bytes]:
    """The file's bytes from `start` to `stop`, block by block."""
    with await to_thread(path.open, "rb") as file:
        await to_thread(file.seek, start)
        while start < stop and (block := await to_thread(file.read, min(BLOCK, stop - start))):
            yield block
            start += len(block)


async def read_lines(path: Path, batch: Batch, look: Look | None) -> AsyncIterator[bytes]:
    """Whole rows, block by block; with `look`, what is written later too, until the batch ends.

    Raises `BrokenOff` when that can't be waited for, and where rows are not on the disk any more.
    """
    position = 0
    while True:
        rest = b""
        async for block in read_bytes(path, position, batch.bytes):
            head, newline, tail = (rest + block).rpartition(b"\n")
            if newline:
                yield head + newline
            rest = tail
            position += len(block)
        if position < batch.bytes:
            raise BrokenOff
        if look and batch.status == "failed":
            raise BrokenOff
        if look is None or batch.ended:
            return
        while batch.bytes == position and not batch.ended:
            await asyncio.sleep(POLL_S)
            try:
                batch = await look()
            except (BatchNotFound, StorageFailed) as exc:
                raise BrokenOff from exc


async def encode(lines: AsyncIterator[bytes], encoder: Encoder) -> AsyncIterator[bytes]:
    """The rows in the encoder's format."""
    async for block in lines:
        if content := await to_thread(encoder.encode, block):
            yield content
    if content := await to_thread(encoder.end):
        yield content
