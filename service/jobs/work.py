"""Who works on what: batches are cut into chunks, and whoever claims one holds it for as long as its lease lasts.

A process that dies lets go at once, as `presence` tells. What becomes of a chunk is written only if it is still held.
Rows are appended in order, and how many bytes of them are certain stands in the same transaction as the chunk's end:
what lies behind them was a dead process's and is written over. A chunk that ends before its predecessors waits in the
database, where there is room for a few.
"""

from __future__ import annotations

import os
import sqlite3
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import orjson

from service.errors import InvalidSource, ServiceError
from service.jobs.database import Batch, find
from service.jobs.presence import Models, Presence
from service.jobs.store import RESULTS, UPLOAD, Store

WINDOW = 32  # chunks of a batch that may be under way or wait for their turn
LEASE_S = 30.0
LONGEST_S = 60.0  # of any lease: one that ends later was given before the clock was set back, and might last for hours
PREPARING = -1  # the chunk number under which the reading of an upload is claimed
LOST_ROWS = "Rows of the batch are not on the server's disk any more; send the batch again."
MODEL = "(model || ' ' || version || ' ' || digest)"
MODELS = f"SELECT DISTINCT {MODEL} AS model FROM batches WHERE status IN ('queued', 'running')"
HELD = f"""
SELECT batch, chunk, owner, lease FROM chunks JOIN batches ON number = batch
WHERE rows IS NULL AND (chunk = :preparing OR {MODEL} IN (SELECT value FROM json_each(:models))) ORDER BY batch, chunk
"""
NEXT = f"""
SELECT number AS batch, CASE WHEN total IS NULL THEN :preparing ELSE claimed END AS chunk FROM batches
WHERE status IN ('queued', 'running') AND number NOT IN (SELECT batch FROM chunks WHERE owner LIKE '% waits') AND CASE
    WHEN total IS NULL THEN number NOT IN (SELECT batch FROM chunks)
    ELSE claimed * per_chunk < total AND claimed < written + :window
        AND {MODEL} IN (SELECT value FROM json_each(:models)) END
ORDER BY number LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A piece of work that is one process's until its lease ends."""

    batch: Batch
    chunk: int  # or PREPARING
    owner: str
    nobodys: bool = False  # no living process has its model

    @property
    def span(self) -> tuple[int, int]:
        """The chunk's first input, and how many it has."""
        first = self.chunk * self.batch.per_chunk
        return first, min(self.batch.per_chunk, (self.batch.total or 0) - first)


class Work:
    """What is to be done for a store's batches."""

    def __init__(self, store: Store, lease_s: float = LEASE_S) -> None:
        self._store, self._database, self.lease_s = store, store.database, lease_s
        self._presence = Presence(store.database.root)
        self._missed: dict[str, float] = {}  # models of batches → since when nobody is known to have them

    def claim(self, models: Models | None = None, behind_s: float = 0.0) -> Claim | None:
        """The next piece of work: a dead process's first, then the oldest batch's; None when there is none.

        With `models`, a batch for another one is read, and scored only if nobody has had its model for `behind_s`.
        """
        now = time.time()
        with self._database.writing() as connection:
            self._presence.say(models or frozenset())
            waiting = {row["model"] for row in connection.execute(MODELS)}
            models = waiting if models is None else models
            nobodys = self._missing(waiting - models, behind_s)
            values = {"preparing": PREPARING, "window": WINDOW, "models": orjson.dumps([*models, *nobodys]).decode()}
            held = connection.execute(HELD, values).fetchall()
            found = (
                next(
                    (row for row in held if not 0 <= row["lease"] - now <= LONGEST_S or self._died(row["owner"])), None
                )
                or connection.execute(NEXT, values).fetchone()
            )
            if found is None:
                return None
            number, chunk, owner = found["batch"], found["chunk"], f"{self._presence.me} {uuid.uuid4().hex}"
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
            batch = Batch(**row)
            return Claim(batch, chunk, owner, f"{batch.model} {batch.version} {batch.digest}" in nobodys)

    def _missing(self, models: Models, behind_s: float) -> Models:
        """Those that no living process has had for so long."""
        models = models and models - self._presence.models()
        now = time.monotonic()
        self._missed = {model: self._missed.get(model, now) for model in models}
        return {model for model, since in self._missed.items() if now - since >= behind_s}

    def _died(self, owner: str) -> bool:
        return not self._presence.lives(owner.partition(" ")[0])

    def tidy(self) -> None:
        """Remove what is left of processes that died while they had no work."""
        with self._database.writing():
            self._presence.models()

    def close(self) -> None:
        """This process does no more work."""
        self._presence.close()

    def renew(self, claim: Claim) -> bool:
        """Make the lease last longer; False when the work is not this process's any more."""
        return self._set_lease(claim, claim.owner, time.time() + self.lease_s)

    def release(self, claim: Claim) -> None:
        """Let others have the work at once."""
        self._set_lease(claim, "", 0)

    def postpone(self, claim: Claim, seconds: float) -> None:
        """Let other batches come first for so long: what failed once may well fail again."""
        self._set_lease(claim, f"{self._presence.me} waits", time.time() + seconds)

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
                [time.time(), orjson.dumps(error.summary()).decode(), claim.batch.number],
            )
        self._store.drop_inputs(claim.batch.id)

    def finish(self, claim: Claim, rows: bytes, failed: int) -> None:
        """The claimed chunk's rows, `failed` of them errors; they are results once those before them are.

        Raises `InvalidSource` where those before them are lost.
        """
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
    """Write `content` there, the last thing in the file, and bring it to the disk.

    Raises `InvalidSource` where what was written before is missing: a gap would be filled with zeros, and told as rows.
    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        if os.fstat(file.fileno()).st_size < position:
            raise InvalidSource(LOST_ROWS)
        file.seek(position)
        file.write(content)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
