"""Batches as a SQLite database knows them, and transactions that are on the disk when they end.

Raises `StorageFailed` where the disk is full or closed to the service, `StorageBusy` where another process keeps it,
`StorageDamaged` where the file is no whole database any more.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import BatchNotFound, StorageBusy, StorageDamaged, StorageFailed
from service.jobs import schema

FILE_NAME = "batches.sqlite"
ONLY_OURS = 0o700  # who may look into its folder, where that is made here: pictures lie there, and what they show
SPARE = "spare"  # a file that only takes room, for the day when the disk is full: SQLite needs some even to delete
SPARE_BYTES, PART_BYTES = 1 << 20, 128 << 10
BUSY_S = 60.0  # how long work waits for other transactions: of many processes on a slow disk,
UPLOAD_S = 20.0  # whoever has sent a batch, which would have to be sent again: less than a process takes to stop,
REQUEST_S = 5.0  # and other requests: whoever waits for an answer can as well ask again
LOCKED = (
    "Another process keeps the list of batches locked, and nothing was changed; try again in a moment, and tell the "
    "operator if it repeats."
)
DAMAGED = (
    "The list of batches is damaged, and nothing was changed; tell the operator, who must put it back from a copy or "
    "move it away: the log says how."
)
DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """What is known of a batch: a row of its table."""

    number: int
    id: str
    status: str  # queued, running, succeeded, failed
    model: str
    version: str
    digest: str
    labels: str  # JSON
    top_k: int | None
    source: str  # its name in SOURCES
    key: str | None  # Idempotency-Key
    fingerprint: str  # of what was sent with it
    per_chunk: int  # inputs
    total: int | None  # inputs; None until the upload has been read
    done: int
    failed: int
    bytes: int  # of results that are certain
    claimed: int  # chunks that have been begun
    written: int  # chunks whose rows are in the results
    created: float  # seconds since 1970
    started: float | None  # scoring: the upload has been read then
    finished: float | None
    error: str | None  # JSON
    threshold: float | None = None  # of its prediction sets, where there are to be some
    coverage: str | None = None  # JSON, as it is shown

    @property
    def ended(self) -> bool:
        """Nothing will change any more."""
        return self.status in ("succeeded", "failed")


class Database:
    """One process's two connections: who reads waits for nobody who writes, or waits to."""

    def __init__(self, root: Path) -> None:
        self.root, self._path = root, root / FILE_NAME
        self._reading, self._writing = _Line(self._path), _Line(self._path)

    @property
    def exists(self) -> bool:
        """Whether a batch was ever kept here."""
        return self._path.exists()

    def rows(self, query: str, values: Sequence[object] = ()) -> list[dict[str, Any]]:
        """What a statement that changes nothing finds; nothing where no batch was ever kept."""
        if not self.exists:
            return []
        with self.reading() as connection:
            return connection.execute(query, values).fetchall()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """For one statement that changes nothing."""
        with as_storage_failed(), self._reading.connected(REQUEST_S) as connection:
            yield connection

    @contextmanager
    def writing(self, patience_s: float = BUSY_S) -> Iterator[sqlite3.Connection]:
        """Alone with the database; what is done is on the disk afterwards, or none of it.

        Raises `StorageBusy` where others keep it for longer than that.
        """
        with as_storage_failed(), self._writing.connected(patience_s) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.rollback()  # nothing where a full disk has ended the transaction already
                raise

    def keep_spare(self) -> None:
        """Take room on the disk that `give_spare` gives back, as much as there is."""
        path = self.root / SPARE
        with suppress(OSError):
            if not path.exists() or path.stat().st_size < SPARE_BYTES:
                path.write_bytes(bytes(SPARE_BYTES))

    def give_spare(self) -> None:
        """Give a part of it back, so that something can be deleted where nothing else can be written."""
        path = self.root / SPARE
        with suppress(OSError):
            os.truncate(path, max(0, path.stat().st_size - PART_BYTES))

    def close(self) -> None:
        """Let go of it."""
        self._reading.close()
        self._writing.close()


class _Line:
    """A connection, shared by threads: made when it is first needed, and anew once it is of no use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened: os.stat_result | None = None  # the file that it leads to

    @contextmanager
    def connected(self, patience_s: float) -> Iterator[sqlite3.Connection]:
        """The connection, this thread's alone; raises `StorageBusy` where others have it for longer than that.

        What is left of that time is how long it waits for other processes.
        """
        until = time.monotonic() + patience_s
        if not self._lock.acquire(timeout=patience_s):
            raise StorageBusy(LOCKED)
        try:
            connection = self._connected()
            connection.execute(f"PRAGMA busy_timeout = {max(0, round((until - time.monotonic()) * 1000))}")
            yield connection
        except sqlite3.DatabaseError:  # what was opened while the disk could only be read stays so, or damaged
            self._drop()
            raise
        finally:
            self._lock.release()

    def close(self) -> None:
        """Let go of it."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def _connected(self) -> sqlite3.Connection:
        if self._connection and not self._is_there():
            self._drop()  # what is written to a file that was removed is lost
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _is_there(self) -> bool:
        """Whether the connection's file still has its name."""
        try:
            return self._opened is not None and os.path.samestat(self._opened, self._path.stat())
        except FileNotFoundError:
            return False

    def _connect(self) -> sqlite3.Connection:
        """A connection that has all it needs, or none."""
        self._path.parent.mkdir(ONLY_OURS, parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=REQUEST_S, isolation_level=None, check_same_thread=False)
        try:
            self._opened = self._path.stat()
            connection.row_factory = _as_dict
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            schema.complete(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def find(connection: sqlite3.Connection, batch_id: str) -> Batch:
    """The batch of that id; raises `BatchNotFound`."""
    row = connection.execute("SELECT * FROM batches WHERE id = ?", [batch_id]).fetchone()
    if row is None:
        raise BatchNotFound("There is no such batch, or not any more; /v1/batches lists all.")
    return Batch(**row)


@contextmanager
def as_storage_failed() -> Iterator[None]:
    """Trouble with the disk becomes the error that clients see."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as exc:
        if getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:  # whatever the reason beyond that
            raise StorageBusy(LOCKED) from exc
        logger.exception("the storage of batches failed")
        raise StorageFailed(
            "The disk for batches is full or can't be written; delete batches that are not needed, or try again later."
        ) from exc
    except sqlite3.DatabaseError as exc:
        if getattr(exc, "sqlite_errorcode", 0) & 0xFF not in DAMAGE:
            raise
        logger.exception(
            "%s is damaged; put a copy in its place, or move it and the files beside that are called after it away, "
            "with which the batches are lost that it lists",
            FILE_NAME,
        )
        raise StorageDamaged(DAMAGED) from exc


def _as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}
