"""Rows → a file that is whole or not there: written beside it first, with a record of how much of that is certain.

Whatever ends the process, what the record says is on the disk, and what lies behind it is cut off when work goes on: no
row is lost and none is doubled. Raises `StartupError` when the disk is full or closed, or another run is writing there.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from service.errors import StartupError
from service.jobs.results import Encoder

BLOCK = 4 << 20
BESIDE = (".partial", ".partial.json", ".partial.json.new", ".new")  # what the output's name is given beside it
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # some file systems of clusters have none
Kept = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """What belongs together: rows, the bytes that they take, and what the caller knows after just these rows."""

    rows: int = 0
    bytes: int = 0
    kept: Kept = field(default_factory=dict)


class Ledger:
    """The rows of one output file so far; no other process has a ledger of the same file."""

    def __init__(self, output: Path, fingerprint: str) -> None:
        """Go on with what an earlier process left, if it did the same: raises `StartupError` if it did not."""
        with self._as_startup_error(output):  # a folder that is closed to this user, a name that is too long
            if output.is_dir():
                raise StartupError(f"{output} is a folder; give --output the name of a file.")
            if not output.parent.is_dir():
                raise StartupError(f"There is no folder {output.parent} for --output; make it, or choose another.")
        self._output, self._fingerprint = output, fingerprint
        self._rows_file, self._record_file, self._new_record, self._finished = beside(output)
        self._failed = False
        with self._as_startup_error(self._rows_file):
            self._file = _locked(self._rows_file)
            try:
                self._record = self._found()
                os.truncate(self._file, self._record.bytes)
            except BaseException:
                os.close(self._file)
                raise

    def _found(self) -> Record:
        try:
            record: dict[str, Any] = orjson.loads(self._record_file.read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return Record()
        if os.fstat(self._file).st_size < record["bytes"]:
            return Record()
        if record.pop("fingerprint") != self._fingerprint:
            if not record["bytes"]:  # a run that had no row before it was corrected
                return Record()
            raise StartupError(
                f"{self._rows_file} holds rows of other inputs, another model or other options; "
                "delete it to start afresh, or choose another --output."
            )
        return Record(**record)

    @property
    def rows(self) -> int:
        """How many there are."""
        return self._record.rows

    @property
    def position(self) -> int:
        """Bytes of all rows so far."""
        return self._record.bytes

    @property
    def kept(self) -> Kept:
        """What the caller gave last."""
        return self._record.kept

    def append(self, rows: bytes, count: int, kept: Kept) -> None:
        """Add rows and what is known with them, or, where that fails, nothing; certain after the next `commit`."""
        with self._as_startup_error(self._rows_file):
            left, position = memoryview(rows), self.position
            while left:
                written = os.pwrite(self._file, left, position)
                left, position = left[written:], position + written
        self._record = Record(self.rows + count, position, kept)

    def keep(self, kept: Kept) -> None:
        """Know something else with the same rows; certain when this returns."""
        self._record = Record(self.rows, self.position, kept)
        self.commit()

    def clear(self) -> None:
        """Begin anew: no rows, nothing known; certain when this returns."""
        self._record = Record()
        self.commit()

    def commit(self) -> None:
        """Bring everything to the disk, then the record that says so; nothing once a write has failed.

        The kernel tells once that bytes did not reach the disk: asked again, it would say that all is well.
        """
        if self._failed:
            return
        with self._as_startup_error(self._rows_file):
            os.fsync(self._file)
            with self._new_record.open("wb") as file:
                file.write(orjson.dumps({"fingerprint": self._fingerprint, **asdict(self._record)}))
                file.flush()
                os.fsync(file.fileno())
            self._new_record.replace(self._record_file)

    def finish(self, encoder: Encoder) -> None:
        """Turn the rows, all of them committed, into the output."""
        with self._as_startup_error(self._finished):
            os.truncate(self._file, self.position)
            try:
                with self._rows_file.open("rb") as source, self._finished.open("wb") as file:
                    while lines := source.read(BLOCK):
                        file.write(encoder.encode(lines + source.readline()))
                    file.write(encoder.end())
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                self._finished.unlink(missing_ok=True)  # on a full disk it would be in the next run's way
                raise
            self._finished.replace(self._output)
            self._record_file.unlink(missing_ok=True)
            self._rows_file.unlink()

    def lines(self) -> Iterator[bytes]:
        """The rows so far, one by one."""
        with self._rows_file.open("rb") as file:
            for line, _ in zip(file, range(self.rows), strict=False):
                yield line

    def close(self) -> None:
        """Leave everything for the next process, or no file where there is nothing to go on with."""
        if self._file >= 0:
            if self._record == Record():
                with suppress(OSError):
                    self._record_file.unlink(missing_ok=True)
                    self._rows_file.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1

    @contextmanager
    def _as_startup_error(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            self._failed = True
            raise StartupError(
                f"{path} can't be written: {exc.strerror}. When that is mended, run the same command again: "
                "it goes on from what is recorded."
            ) from exc


def beside(output: Path) -> list[Path]:
    """The files that are there while the output is made."""
    return [output.with_name(output.name + ending) for ending in BESIDE]


def _locked(path: Path) -> int:
    """The file, made where it is missing, and no other process's as long as it is open."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file).st_nlink:
                return file
        except BlockingIOError as exc:
            os.close(file)
            raise StartupError(f"Another run is writing this output: it holds {path}; wait for its end.") from exc
        except OSError as exc:
            if exc.errno in WITHOUT_LOCKS:
                return file
            os.close(file)
            raise
        os.close(file)  # the run that had it has ended meanwhile and removed it
