"""Who works on what: batches are cut into chunks, and whoever claims one holds it for as long as its lease lasts.

A process that dies lets go at once: the kernel takes the lock on its file away. What becomes of a chunk is written
only if it is still held. Rows are appended in order, and how many bytes of them are certain stands in the same
transaction as the chunk's end: what lies behind them was a dead process's and is written over. A chunk that ends before
its predecessors waits in the database, where there is room for a few.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import orjson

from service.errors import ServiceError
from service.jobs import results
from service.jobs.database import Batch, find
from service.jobs.store import RESULTS, UPLOAD, Store

WINDOW = 32  # chunks of a batch that may be under way or wait for their turn
LEASE_S = 30.0
PREPARING = -1  # the chunk number under which the reading of an upload is claimed
HELD = "SELECT batch, chunk, owner, lease FROM chunks WHERE rows IS NULL ORDER BY batch, chunk"
NEXT = """
SELECT number AS batch, CASE WHEN total IS NULL THEN :preparing ELSE claimed END AS chunk FROM batches
WHERE status IN ('queued', 'running') AND number NOT IN (SELECT batch FROM chunks WHERE owner LIKE '% waits') AND CASE
    WHEN total IS NULL THEN number NOT IN (SELECT batch FROM chunks)
    ELSE claimed * per_chunk < total AND claimed < written + :window END
ORDER BY number LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A piece of work that is one process's until its lease ends."""

    batch: Batch
    chunk: int  # or PREPARING
    owner: str

    @property
    def span(self) -> tuple[int, int]:
        """The chunk's first input, and how many it has."""
        first = self.chunk * self.batch.per_chunk
        return first, min(self.batch.per_chunk, (self.batch.total or 0) - first)


class Work:
    """What is to be done for a store's batches."""

    def __init__(self, store: Store, lease_s: float = LEASE_S) -> None:
        self._store, self._database, self.lease_s = store, store.database, lease_s
        self._me, self._lock_file = uuid.uuid4().hex, -1

    def claim(self) -> Claim | None:
        """The next piece of work: a dead process's first, then the oldest batch's; None when there is none."""
        now = time.time()
        with self._database.writing() as connection:
            held = connection.execute(HELD).fetchall()
            found = (
                next(
                    (row for row in held if row["lease"] < now or not self._lives(row["owner"].partition(" ")[0])), None
                )
                or connection.execute(NEXT, {"preparing": PREPARING, "window": WINDOW}).fetchone()
            )
            if found is None:
                return None
            self._say_alive()
            number, chunk, owner = found["batch"], found["chunk"], f"{self._me} {uuid.uuid4().hex}"
            connection.execute(
                "INSERT OR REPLACE INTO chunks (batch, chunk, owner, lease) VALUES (?, ?, ?, ?)",
                [number, chunk, owner, now + self.lease_s],
            )
            connection.execute(
                """UPDATE batches SET status = 'running', started = coalesce(started, ?), claimed = max(claimed, ?)
                   WHERE number = ?""",
                [None if chunk == PREPARING else now, chunk + 1, number],  # what is left is told from the scoring alone
            )
            row = connection.execute("SELECT * FROM batches WHERE number = ?", [number]).fetchone()
            return Claim(Batch(**row), chunk, owner)

    def tidy(self) -> None:
        """Remove the lock files of processes that died while they had no work."""
        with self._database.writing():  # in which locks are taken: else one could be removed just before
            for path in self._database.root.glob("worker-*"):
                self._lives(path.name.removeprefix("worker-"))

    def close(self) -> None:
        """This process does no more work."""
        if self._lock_file >= 0:
            self._path(self._me).unlink(missing_ok=True)
            os.close(self._lock_file)
            self._lock_file = -1

    def _path(self, process: str) -> Path:
        return self._database.root / f"worker-{process}"

    def _say_alive(self) -> None:
        """Hold a lock for as long as this process lives."""
        if self._lock_file < 0:
            self._lock_file = os.open(self._path(self._me), os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)

    def _lives(self, process: str) -> bool:
        if process == self._me:
            return True
        try:
            descriptor = os.open(self._path(process), os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        self._path(process).unlink(missing_ok=True)
        return False

    def renew(self, claim: Claim) -> bool:
        """Make the lease last longer; False when the work is not this process's any more."""
        return self._set_lease(claim, claim.owner, time.time() + self.lease_s)

    def release(self, claim: Claim) -> None:
        """Let others have the work at once."""
        self._set_lease(claim, "", 0)

    def postpone(self, claim: Claim, seconds: float) -> None:
        """Let other batches come first for so long: what failed once may well fail again."""
        self._set_lease(claim, f"{self._me} waits", time.time() + seconds)

    def _set_lease(self, claim: Claim, owner: str, until: float) -> bool:
        with self._database.writing() as connection:
            changed = connection.execute(
                "UPDATE chunks SET owner = ?, lease = ? WHERE batch = ? AND chunk = ? AND owner = ?",
                [owner, until, claim.batch.number, claim.chunk, claim.owner],
            )
            return changed.rowcount == 1

    def prepared(self, claim: Claim, total: int) -> None:
        """The upload has been read: the batch has so many inputs."""
        with self._database.writing() as connection:
            if not _end(connection, claim):
                return
            connection.execute("UPDATE batches SET total = ? WHERE number = ?", [total, claim.batch.number])
        (self._store.folder(claim.batch.id) / UPLOAD).unlink(missing_ok=True)

    def fail(self, claim: Claim, error: ServiceError) -> None:
        """The whole batch can't be scored."""
        with self._database.writing() as connection:
            if not _end(connection, claim):
                return
            connection.execute("DELETE FROM chunks WHERE batch = ?", [claim.batch.number])
            connection.execute(
                "UPDATE batches SET status = 'failed', finished = ?, error = ? WHERE number = ?",
                [time.time(), orjson.dumps(results.error(error)).decode(), claim.batch.number],
            )
        self._store.drop_inputs(claim.batch.id)

    def finish(self, claim: Claim, rows: bytes, failed: int) -> None:
        """The claimed chunk's rows, `failed` of them errors; they are results once those before them are."""
        with self._database.writing() as connection:
            if not _end(connection, claim):
                return
            connection.execute(
                "INSERT INTO chunks VALUES (?, ?, ?, 0, ?, ?)",
                [claim.batch.number, claim.chunk, claim.owner, rows, failed],
            )
            batch = self._write_what_is_due(connection, find(connection, claim.batch.id))
        if batch.ended:
            self._store.drop_inputs(batch.id)

    def _write_what_is_due(self, connection: sqlite3.Connection, batch: Batch) -> Batch:
        """Append the rows of all chunks that follow on what is written."""
        due, failed, written = bytearray(), batch.failed, batch.written
        query = "SELECT rows, failed FROM chunks WHERE batch = ? AND chunk = ? AND rows IS NOT NULL"
        while row := connection.execute(query, [batch.number, written]).fetchone():
            due += row["rows"]
            failed, written = failed + row["failed"], written + 1
        if written == batch.written:
            return batch
        _write_at(self._store.folder(batch.id) / RESULTS, batch.bytes, due)
        done = min(written * batch.per_chunk, batch.total or 0)
        status, finished = ("succeeded", time.time()) if done == batch.total else (batch.status, None)
        connection.execute("DELETE FROM chunks WHERE batch = ? AND chunk < ?", [batch.number, written])
        connection.execute(
            """UPDATE batches SET written = ?, done = ?, failed = ?, bytes = ?, status = ?, finished = ?
               WHERE number = ?""",
            [written, done, failed, batch.bytes + len(due), status, finished, batch.number],
        )
        return find(connection, batch.id)


def _end(connection: sqlite3.Connection, claim: Claim) -> bool:
    """Whether the claim held until now; it ends with this."""
    ended = connection.execute(
        "DELETE FROM chunks WHERE batch = ? AND chunk = ? AND owner = ? AND rows IS NULL",
        [claim.batch.number, claim.chunk, claim.owner],
    )
    return ended.rowcount == 1


def _write_at(path: Path, position: int, content: bytearray) -> None:
    """Write `content` there, the last thing in the file, and bring it to the disk."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        file.seek(position)
        file.write(content)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
