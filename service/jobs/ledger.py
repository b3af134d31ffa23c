"""Rows → a file that is whole or not there: written beside it first, with a record of how much of that is certain.

Whatever ends the process, what the record says is on the disk and what lies behind it is cut off when work goes on: no
row is lost and none is doubled. Raises `StartupError` when the disk is full or closed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from service.errors import StartupError
from service.jobs.results import Encoder

BLOCK = 4 << 20


class Ledger:
    """The rows of one output file so far."""

    def __init__(self, output: Path, fingerprint: str) -> None:
        """Go on with what an earlier process left, if it did the same: raises `StartupError` if it did not."""
        self._output, self._fingerprint = output, fingerprint
        self._rows_file = output.with_name(output.name + ".partial")
        self._record_file = output.with_name(output.name + ".partial.json")
        with _told(self._rows_file):
            found = self._found()
            self.rows = int(found.get("rows", 0))
            self.kept: dict[str, Any] = found.get("kept", {})  # what the caller had recorded with the rows
            self._file = self._rows_file.open("r+b" if found else "wb")
            self._file.truncate(int(found.get("bytes", 0)))
            self._file.seek(0, os.SEEK_END)

    def _found(self) -> dict[str, Any]:
        try:
            record: dict[str, Any] = orjson.loads(self._record_file.read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return {}
        if not self._rows_file.exists() or self._rows_file.stat().st_size < record["bytes"]:
            return {}
        if record["fingerprint"] != self._fingerprint:
            raise StartupError(
                f"{self._rows_file} holds rows of other inputs, another model or other options; "
                "delete it to start afresh, or choose another --output."
            )
        return record

    @property
    def position(self) -> int:
        """Bytes of all rows so far."""
        return self._file.tell()

    def append(self, rows: bytes, count: int) -> None:
        """Add rows; they are certain after the next `commit`."""
        with _told(self._rows_file):
            self._file.write(rows)
        self.rows += count

    def commit(self, kept: dict[str, Any]) -> None:
        """Bring everything to the disk, then the record that says so."""
        with _told(self._rows_file):
            self._file.flush()
            os.fsync(self._file.fileno())
            record = {"fingerprint": self._fingerprint, "rows": self.rows, "bytes": self._file.tell(), "kept": kept}
            partial = self._record_file.with_name(self._record_file.name + ".new")
            with partial.open("wb") as file:
                file.write(orjson.dumps(record))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._record_file)

    def finish(self, encoder: Encoder) -> None:
        """Turn the rows, all of them committed, into the output."""
        finished = self._output.with_name(self._output.name + ".new")
        with _told(finished):
            self._file.close()
            with self._rows_file.open("rb") as source, finished.open("wb") as file:
                while lines := source.read(BLOCK):
                    file.write(encoder.encode(lines + source.readline()))
                file.write(encoder.end())
                file.flush()
                os.fsync(file.fileno())
            finished.replace(self._output)
            self._record_file.unlink(missing_ok=True)
            self._rows_file.unlink()

    def lines(self) -> Iterator[bytes]:
        """The rows so far, one by one."""
        self._file.flush()
        with self._rows_file.open("rb") as file:
            yield from file

    def close(self) -> None:
        """Leave everything for the next process."""
        self._file.close()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StartupError(
            f"{path} can't be written: {exc.strerror}. What is recorded is kept; run the same command again."
        ) from exc
