"""Batches that outlive every process: rows of a database and a folder for each, shared by all worker processes."""

from __future__ import annotations

import math
import os
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import orjson

from service.errors import BatchNotFound, Conflict, StorageBusy, StorageFailed
from service.jobs.database import REQUEST_S, Batch, Database, as_storage_failed, find
from service.jobs.spool import INPUTS, OFFSETS, sync_folder
from service.prediction import ModelIdentity

CHUNK_INPUTS = 256
ORPHAN_S = 3600.0  # a folder without a batch that nobody has touched for so long is an upload that never ended
FETCH_S = 3600.0  # so long a finished batch stays, whatever needs room: who sent it may look for its end only at times
UPLOAD, RESULTS = "upload", "results.ndjson"
ARRIVING = "arriving"  # a folder: for each upload how many bytes it has room for, which others leave it


@dataclass(frozen=True, slots=True)
class NewBatch:
    """What is known of a batch when its upload has arrived; `total` where that has been read on the way."""

    id: str
    model: ModelIdentity
    top_k: int | None
    source: str
    key: str | None
    fingerprint: str
    total: int | None = None


class Unfinished(NamedTuple):
    """What stays, whatever is needed."""

    batches: int
    bytes: int  # of their files, of uploads that arrive, and of results that may not be fetched yet


class Store:
    """All batches in one folder."""

    def __init__(self, root: Path) -> None:
        self.database = Database(root)
        self._root = root

    @property
    def exists(self) -> bool:
        """Whether a batch was ever kept here."""
        return self.database.exists

    def folder(self, batch_id: str) -> Path:
        """Where the batch's files are."""
        return self._root / batch_id

    def new_folder(self) -> tuple[str, Path]:
        """A new id and its folder, for an upload to come."""
        with as_storage_failed():
            batch_id = f"batch-{uuid.uuid4().hex}"
            self.folder(batch_id).mkdir(parents=True)
            self._arriving(batch_id).parent.mkdir(exist_ok=True)
            self._arriving(batch_id).touch()
            return batch_id, self.folder(batch_id)

    def create(self, new: NewBatch) -> Batch:
        """Keep the batch whose synced files are in its folder; its earlier self where the key is known.

        Raises `Conflict` where the key belongs to another one.
        """
        with as_storage_failed():
            (self.folder(new.id) / RESULTS).touch()
            sync_folder(self.folder(new.id))
            sync_folder(self._root)
        batch = self._insert(new)
        with suppress(OSError):  # it is accepted; `_clean` comes again
            self._arriving(batch.id).unlink()
        return batch

    def _insert(self, new: NewBatch) -> Batch:
        with self.database.writing(REQUEST_S) as connection:
            if new.key is not None:
                row = connection.execute("SELECT * FROM batches WHERE key = ?", [new.key]).fetchone()
                if row and row["fingerprint"] != new.fingerprint:
                    raise Conflict("The Idempotency-Key was used for another batch; use a new one for each batch.")
                if row:
                    return Batch(**row)
            connection.execute(
                """INSERT INTO batches (id, status, model, version, digest, labels, top_k, source, key, fingerprint,
                   per_chunk, total, created) VALUES (?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                [
                    new.id,
                    new.model.name,
                    new.model.version,
                    new.model.digest,
                    orjson.dumps(new.model.labels).decode(),
                    new.top_k,
                    new.source,
                    new.key,
                    new.fingerprint,
                    CHUNK_INPUTS,
                    new.total,
                    time.time(),
                ],
            )
            return find(connection, new.id)

    def get(self, batch_id: str) -> Batch:
        """Raises `BatchNotFound`."""
        if not self.exists:
            raise BatchNotFound("There is no such batch: none was ever sent.")
        with self.database.reading() as connection:
            return find(connection, batch_id)

    def newest(self, limit: int, after: str | None = None) -> list[Batch]:
        """The newest first, or those older than the batch `after`."""
        if not self.exists:
            return []
        number = self.get(after).number if after else 1 << 62
        with self.database.reading() as connection:
            query = "SELECT * FROM batches WHERE number < ? ORDER BY number DESC LIMIT ?"
            return [Batch(**row) for row in connection.execute(query, [number, limit])]

    def counts(self) -> dict[str, int]:
        """How many batches there are of each status; all are 0 while the storage fails."""
        counts = dict.fromkeys(("queued", "running", "succeeded", "failed"), 0)
        if self.exists:
            with suppress(StorageFailed), self.database.reading() as connection:
                rows = connection.execute("SELECT status, count(*) AS count FROM batches GROUP BY status").fetchall()
                counts |= {row["status"]: row["count"] for row in rows}
        return counts

    def delete(self, batch_id: str) -> None:
        """Forget the batch and its files, whoever works on it; raises `BatchNotFound`.

        On a full disk its files go first: the room that they leave is needed to forget it.
        """
        try:
            self._forget(batch_id)
        except StorageBusy:
            raise
        except StorageFailed:
            self.database.give_spare()
            self.discard(self.get(batch_id).id)
            self._forget(batch_id)
        self.discard(batch_id)

    def _forget(self, batch_id: str) -> None:
        self.get(batch_id)
        with self.database.writing(REQUEST_S) as connection:
            number = find(connection, batch_id).number
            connection.execute("DELETE FROM chunks WHERE batch = ?", [number])
            connection.execute("DELETE FROM batches WHERE number = ?", [number])

    def discard(self, batch_id: str) -> None:
        """Remove a folder that belongs to no batch."""
        shutil.rmtree(self.folder(batch_id), ignore_errors=True)
        with suppress(OSError):
            self._arriving(batch_id).unlink()

    def _arriving(self, batch_id: str) -> Path:
        return self._root / ARRIVING / batch_id

    def drop_inputs(self, batch_id: str) -> None:
        """Remove what a batch that has ended does not need."""
        for name in (UPLOAD, INPUTS, OFFSETS):
            (self.folder(batch_id) / name).unlink(missing_ok=True)

    def tidy(self, *, keep_s: float, max_bytes: int, needed_bytes: int = 0, needed_by: str = "") -> int:
        """Remove finished batches that are old, and the oldest beyond `max_bytes`: these `FETCH_S` after their end.

        Returns the bytes in use then, the `needed_bytes` of the batch `needed_by` among them, which are its own from
        now on. None is removed for them where it would be in vain. Of finished batches the database knows the size, so
        this takes no longer where there are many. Without `needed_by` it also removes what dead processes left.
        """
        if needed_by:
            with as_storage_failed():
                self._arriving(needed_by).write_text(str(needed_bytes), encoding="ascii")
        elif self._root.exists():
            self._clean()
        stays = self.unfinished(needed_by).bytes  # what has arrived of it is needed
        used = stays + self._finished_bytes(0, time.time() - FETCH_S)
        most = max_bytes - needed_bytes if stays + needed_bytes <= max_bytes else max_bytes
        while oldest := self._oldest():
            age_s = time.time() - (oldest.finished or 0)
            if age_s <= keep_s and (used <= most or age_s <= FETCH_S):
                break
            used -= oldest.bytes
            with suppress(BatchNotFound):  # another process was first
                self.delete(oldest.id)
        return used + needed_bytes

    def unfinished(self, besides: str = "") -> Unfinished:
        """All but `besides`."""
        ids = set[str]()
        if self.exists:
            with self.database.reading() as connection:
                rows = connection.execute("SELECT id FROM batches WHERE status IN ('queued', 'running')")
                ids = {row["id"] for row in rows}
        count = len(ids)
        with suppress(FileNotFoundError):
            ids |= {path.name for path in (self._root / ARRIVING).iterdir()}
        just_finished = self._finished_bytes(time.time() - FETCH_S, math.inf)
        return Unfinished(count, just_finished + sum(self._bytes(batch_id) for batch_id in ids - {besides}))

    def _bytes(self, batch_id: str) -> int:
        """Of its files, with those that are still to come."""
        arrived = _measure(self.folder(batch_id))[0]
        try:
            expected = int(self._arriving(batch_id).read_text(encoding="ascii") or 0)  # empty while it is being written
        except FileNotFoundError:
            return arrived
        return max(arrived, expected) if self.folder(batch_id).exists() else 0

    def _finished_bytes(self, after: float, until: float) -> int:
        if not self.exists:
            return 0
        with self.database.reading() as connection:
            query = "SELECT sum(bytes) AS bytes FROM batches WHERE finished > ? AND finished <= ?"
            return connection.execute(query, [after, until]).fetchone()["bytes"] or 0

    def _oldest(self) -> Batch | None:
        """The batch that was finished before all others."""
        if not self.exists:
            return None
        with self.database.reading() as connection:
            query = "SELECT * FROM batches WHERE finished IS NOT NULL ORDER BY finished, number LIMIT 1"
            row = connection.execute(query).fetchone()
            return Batch(**row) if row else None

    def _clean(self) -> None:
        """Remove what processes that died have left: of batches that ended, and of uploads that never did."""
        known = set[str]()
        if self.exists:
            self.database.keep_spare()
            with self.database.reading() as connection:
                rows = connection.execute("SELECT id, finished FROM batches").fetchall()
            known = {row["id"] for row in rows}
            for row in rows:
                if row["finished"]:
                    self.drop_inputs(row["id"])
        for folder in self._root.glob("batch-*"):
            if folder.name not in known and time.time() - _measure(folder)[1] >= ORPHAN_S:
                self.discard(folder.name)
        for path in self._root.glob(f"{ARRIVING}/*"):
            if path.name in known or not self.folder(path.name).exists():
                path.unlink(missing_ok=True)


def _measure(folder: Path) -> tuple[int, float]:
    """Its bytes, and when something in it was last written."""
    try:
        facts = [entry.stat() for entry in os.scandir(folder)]
        touched = max(fact.st_mtime for fact in (folder.stat(), *facts))
        return sum(fact.st_size for fact in facts), touched
    except FileNotFoundError:  # another process was first
        return 0, time.time()
