"""What all batches take on the disk → what may stay: for others that come, and after time or death has had its way."""

from __future__ import annotations

import logging
import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from service.errors import BatchNotFound
from service.jobs.database import Batch, as_storage_failed
from service.jobs.store import ARRIVING, BATCH, Store

ORPHAN_S = 3600.0  # a folder without a batch that nobody has touched for so long is an upload that never ended
FETCH_S = 3600.0  # so long a finished batch stays, whatever needs room: who sent it may look for its end only at times
BESIDE_RESULTS = 8 << 10  # bytes that a finished batch takes beside its rows: its folder, and its place in the list
logger = logging.getLogger(__name__)


class Unfinished(NamedTuple):
    """What stays, whatever is needed."""

    batches: int
    bytes: int  # of their files, of uploads that arrive, and of results that may not be fetched yet


@dataclass(frozen=True, slots=True)
class Upkeep:
    """How long the batches of a store stay, and how many bytes they may take together."""

    store: Store
    keep_s: float
    max_bytes: int

    def tidy(self) -> int:
        """Remove what dead processes left, and finished batches that are old or too many; the bytes in use then."""
        if self.store.root.exists():
            self._clean()
        return self._thin_out(self.unfinished().bytes, self.max_bytes)

    def make_room(self, batch_id: str, needed_bytes: int) -> int:
        """Give that many bytes to the batch that arrives, its own from now on; the bytes in use then, these among them.

        No other is removed for them where it would be in vain.
        """
        with as_storage_failed():
            self.store.arriving(batch_id).write_text(str(needed_bytes), encoding="ascii")
        stays = self.unfinished(batch_id).bytes  # what has arrived of it is needed
        fits = stays + needed_bytes <= self.max_bytes
        return needed_bytes + self._thin_out(stays, self.max_bytes - needed_bytes if fits else self.max_bytes)

    def _thin_out(self, stays: int, most: int) -> int:
        """Remove finished batches that are old, and the oldest beyond `most` bytes: these `FETCH_S` after their end.

        `stays` are in use by others; returns those in use then. Of finished batches the database knows the size, so
        this takes no longer where there are many.
        """
        used = stays + self._finished_bytes(0, time.time() - FETCH_S)
        while oldest := self._oldest():
            age_s = time.time() - (oldest.finished or 0)
            if age_s <= self.keep_s and (used <= most or age_s <= FETCH_S):
                break
            used -= oldest.bytes + BESIDE_RESULTS
            with suppress(BatchNotFound):  # another process was first
                self.store.delete(oldest.id)
        return used

    def unfinished(self, besides: str = "") -> Unfinished:
        """All but `besides`."""
        rows = self.store.database.rows("SELECT id FROM batches WHERE status IN ('queued', 'running')")
        ids = {row["id"] for row in rows}
        count = len(ids)
        with suppress(FileNotFoundError):
            ids |= {path.name for path in (self.store.root / ARRIVING).iterdir() if _is_ours(path)}
        just_finished = self._finished_bytes(time.time() - FETCH_S, math.inf)
        return Unfinished(count, just_finished + sum(self._bytes(batch_id) for batch_id in ids - {besides}))

    def _bytes(self, batch_id: str) -> int:
        """Of its files, with those that are still to come."""
        folder, arriving = self.store.folder(batch_id), self.store.arriving(batch_id)
        arrived = _measure(folder)[0]
        try:
            expected = int(arriving.read_text(encoding="ascii") or 0)  # empty while it is being written
        except FileNotFoundError:
            return arrived
        return max(arrived, expected) if folder.exists() else 0

    def _finished_bytes(self, after: float, until: float) -> int:
        query = "SELECT count(*) AS count, sum(bytes) AS bytes FROM batches WHERE finished > ? AND finished <= ?"
        rows = self.store.database.rows(query, [after, until])
        return sum((row["bytes"] or 0) + row["count"] * BESIDE_RESULTS for row in rows)

    def _oldest(self) -> Batch | None:
        """The batch that was finished before all others."""
        query = "SELECT * FROM batches WHERE finished IS NOT NULL ORDER BY finished, number LIMIT 1"
        return next((Batch(**row) for row in self.store.database.rows(query)), None)

    def _clean(self) -> None:
        """Remove what processes that died have left: of batches that ended, and of uploads that never did."""
        if self.store.exists:
            self.store.database.keep_spare()
        rows = self.store.database.rows("SELECT id, finished FROM batches")
        known = {row["id"] for row in rows}
        for row in rows:
            if row["finished"]:
                self.store.drop_inputs(row["id"])
        for folder in filter(_is_ours, self.store.root.glob("batch-*")):
            if folder.name not in known and time.time() - _measure(folder)[1] >= ORPHAN_S:
                logger.info("an upload that never ended is removed: %s", folder.name)
                self.store.discard(folder.name)
        for path in filter(_is_ours, self.store.root.glob(f"{ARRIVING}/*")):
            if path.name in known or not self.store.folder(path.name).exists():
                path.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    """Whether it is called as a batch is: the folder may have been there before, with other things in it."""
    return BATCH.fullmatch(path.name) is not None


def _measure(folder: Path) -> tuple[int, float]:
    """Its bytes, and when something in it was last written."""
    try:
        facts = [entry.stat() for entry in os.scandir(folder)]
        touched = max(fact.st_mtime for fact in (folder.stat(), *facts))
        return sum(fact.st_size for fact in facts), touched
    except FileNotFoundError:  # another process was first
        return 0, time.time()
