"""Batches that outlive every process: rows of a database and a folder for each, shared by all worker processes."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from service.errors import BatchNotFound, Conflict, StorageFailed
from service.jobs.database import Batch, Database, find, told
from service.jobs.spool import INPUTS, OFFSETS, sync_folder
from service.prediction import ModelIdentity

CHUNK_INPUTS = 256
ORPHAN_S = 3600.0  # a folder without a batch that nobody has touched for so long is an upload that never ended
UPLOAD, RESULTS = "upload", "results.ndjson"
EXPECTED = "expected"  # how many bytes an upload will have, so that others that arrive meanwhile leave it its room


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
        with told():
            batch_id = f"batch-{uuid.uuid4().hex}"
            self.folder(batch_id).mkdir(parents=True)
            return batch_id, self.folder(batch_id)

    def create(self, new: NewBatch) -> Batch:
        """Keep the batch whose synced files are in its folder; its earlier self where the key is known.

        Raises `Conflict` where the key belongs to another one.
        """
        with told():
            (self.folder(new.id) / EXPECTED).unlink(missing_ok=True)
            (self.folder(new.id) / RESULTS).touch()
            sync_folder(self.folder(new.id))
            sync_folder(self._root)
        with self.database.writing() as connection:
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
        """Forget the batch and its files, whoever works on it; raises `BatchNotFound`."""
        self.get(batch_id)
        with self.database.writing() as connection:
            number = find(connection, batch_id).number
            connection.execute("DELETE FROM chunks WHERE batch = ?", [number])
            connection.execute("DELETE FROM batches WHERE number = ?", [number])
        self.discard(batch_id)

    def discard(self, batch_id: str) -> None:
        """Remove a folder that belongs to no batch."""
        shutil.rmtree(self.folder(batch_id), ignore_errors=True)

    def drop_inputs(self, batch_id: str) -> None:
        """Remove what a batch that has ended does not need."""
        for name in (UPLOAD, INPUTS, OFFSETS):
            (self.folder(batch_id) / name).unlink(missing_ok=True)

    def tidy(self, *, keep_s: float, max_bytes: int, needed_bytes: int = 0, needed_by: str = "") -> int:
        """Remove finished batches that are old, the oldest beyond `max_bytes`, and uploads that never ended.

        Returns the bytes in use then, the `needed_bytes` of the batch `needed_by` among them, which are its own from
        now on. None is removed for them where it would be in vain.
        """
        if needed_by:
            with told():
                (self.folder(needed_by) / EXPECTED).write_text(str(needed_bytes), encoding="ascii")
        batches: list[Batch] = []
        if self.exists:
            with self.database.reading() as connection:
                rows = connection.execute("SELECT * FROM batches ORDER BY finished, number")
                batches = [Batch(**row) for row in rows]
        sizes = self._sizes({batch.id for batch in batches})
        sizes.pop(needed_by, 0)  # what has arrived of it is needed
        used = sum(sizes.values())
        stays = used - sum(sizes.get(batch.id, 0) for batch in batches if batch.finished)
        most = max_bytes - needed_bytes if stays + needed_bytes <= max_bytes else max_bytes
        for batch in batches:
            if batch.ended:
                self.drop_inputs(batch.id)  # the process that ended it may have died over this
            if batch.finished and (used > most or time.time() - batch.finished > keep_s):
                used -= sizes.get(batch.id, 0)
                try:
                    self.delete(batch.id)
                except BatchNotFound:  # another process was first
                    continue
        return used + needed_bytes

    def _sizes(self, known: set[str]) -> dict[str, int]:
        """Bytes of every folder; those that belong to no batch and are old are removed."""
        sizes = {}
        for folder in self._root.glob("batch-*"):
            size, touched = _measure(folder)
            if folder.name in known or time.time() - touched < ORPHAN_S:
                sizes[folder.name] = size
            else:
                self.discard(folder.name)
        return sizes


def _measure(folder: Path) -> tuple[int, float]:
    """Its bytes, with those that are still to come, and when something in it was last written."""
    try:
        facts = {entry.name: entry.stat() for entry in os.scandir(folder)}
        touched = max(fact.st_mtime for fact in (folder.stat(), *facts.values()))
        expected = 0
        if facts.pop(EXPECTED, None):
            expected = int((folder / EXPECTED).read_text(encoding="ascii") or 0)  # empty while it is being written
        return max(expected, sum(fact.st_size for fact in facts.values())), touched
    except FileNotFoundError:  # another process was first
        return 0, time.time()
