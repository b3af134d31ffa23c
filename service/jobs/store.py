"""Batches that outlive every process: rows of a database and a folder for each, shared by all worker processes."""

from __future__ import annotations

import re
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from service.coverage import Coverage
from service.errors import BatchNotFound, Conflict, StorageBusy, StorageDamaged, StorageFailed
from service.jobs.database import ONLY_OURS, UPLOAD_S, Batch, Database, as_storage_failed, find
from service.jobs.spool import INPUTS, OFFSETS, sync_folder
from service.prediction import ModelIdentity

CHUNK_INPUTS = 256
UPLOAD, RESULTS = "upload", "results.ndjson"
BATCH = re.compile("batch-[0-9a-f]{32}")  # ids, and their folders: whatever else is called otherwise is not ours
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
    sets: Coverage | None = None


class Store:
    """All batches in one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.database = root, Database(root)

    @property
    def exists(self) -> bool:
        """Whether a batch was ever kept here."""
        return self.database.exists

    def folder(self, batch_id: str) -> Path:
        """Where the batch's files are."""
        return self.root / batch_id

    def new_folder(self) -> tuple[str, Path]:
        """A new id and its folder, for an upload to come."""
        with as_storage_failed():
            batch_id = f"batch-{uuid.uuid4().hex}"
            self.root.mkdir(ONLY_OURS, parents=True, exist_ok=True)
            self.folder(batch_id).mkdir()
            self.arriving(batch_id).parent.mkdir(exist_ok=True)
            self.arriving(batch_id).touch()
            return batch_id, self.folder(batch_id)

    def create(self, new: NewBatch) -> Batch:
        """Keep the batch whose synced files are in its folder; its earlier self where the key is known.

        Raises `Conflict` where the key belongs to another one.
        """
        with as_storage_failed():
            (self.folder(new.id) / RESULTS).touch()
            sync_folder(self.folder(new.id))
            sync_folder(self.root)
        batch = self._insert(new)
        with suppress(OSError):  # it is accepted; `Upkeep` comes again
            self.arriving(batch.id).unlink()
        return batch

    def _insert(self, new: NewBatch) -> Batch:
        with self.database.writing(UPLOAD_S) as connection:
            if new.key is not None:
                row = connection.execute("SELECT * FROM batches WHERE key = ?", [new.key]).fetchone()
                if row and row["fingerprint"] != new.fingerprint:
                    raise Conflict("The Idempotency-Key was used for another batch; use a new one for each batch.")
                if row:
                    return Batch(**row)
            connection.execute(
                """INSERT INTO batches (id, status, model, version, digest, labels, top_k, threshold, coverage, source,
                   key, fingerprint, per_chunk, total, created)
                   VALUES (?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                [
                    new.id,
                    new.model.name,
                    new.model.version,
                    new.model.digest,
                    orjson.dumps(new.model.labels).decode(),
                    new.top_k,
                    new.sets.threshold if new.sets else None,
                    orjson.dumps(new.sets.shown).decode() if new.sets else None,
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
        """The batch of that id; raises `BatchNotFound`."""
        if not self.exists:
            raise BatchNotFound("There is no such batch: none was ever sent.")
        with self.database.reading() as connection:
            return find(connection, batch_id)

    def newest(self, limit: int, after: str | None = None) -> list[Batch]:
        """The newest first, or those older than the batch `after`."""
        if not self.exists:
            return []
        number = self.get(after).number if after else 1 << 62
        query = "SELECT * FROM batches WHERE number < ? ORDER BY number DESC LIMIT ?"
        return [Batch(**row) for row in self.database.rows(query, [number, limit])]

    def counts(self) -> dict[str, int]:
        """How many batches there are of each status; all are 0 while the storage fails."""
        counts = dict.fromkeys(("queued", "running", "succeeded", "failed"), 0)
        with suppress(StorageFailed):
            rows = self.database.rows("SELECT status, count(*) AS count FROM batches GROUP BY status")
            counts |= {row["status"]: row["count"] for row in rows}
        return counts

    def delete(self, batch_id: str, patience_s: float = UPLOAD_S) -> None:
        """Forget the batch and its files, whoever works on it; raises `BatchNotFound`, and as `Database.writing` does.

        On a full disk its files go first: the room that they leave is needed to forget it.
        """
        try:
            self._forget(batch_id, patience_s)
        except (StorageBusy, StorageDamaged):
            raise
        except StorageFailed:
            self.database.give_spare()
            self.discard(self.get(batch_id).id)
            self._forget(batch_id, patience_s)
        self.discard(batch_id)

    def _forget(self, batch_id: str, patience_s: float) -> None:
        self.get(batch_id)
        with self.database.writing(patience_s) as connection:
            number = find(connection, batch_id).number
            connection.execute("DELETE FROM chunks WHERE batch = ?", [number])
            connection.execute("DELETE FROM batches WHERE number = ?", [number])

    def discard(self, batch_id: str) -> None:
        """Remove a folder that belongs to no batch."""
        shutil.rmtree(self.folder(batch_id), ignore_errors=True)
        with suppress(OSError):
            self.arriving(batch_id).unlink()

    def arriving(self, batch_id: str) -> Path:
        """The file that says how many bytes an upload has room for; it is there until the batch is."""
        return self.root / ARRIVING / batch_id

    def drop_inputs(self, batch_id: str) -> None:
        """Remove what a batch that has ended does not need."""
        for name in (UPLOAD, INPUTS, OFFSETS):
            (self.folder(batch_id) / name).unlink(missing_ok=True)
