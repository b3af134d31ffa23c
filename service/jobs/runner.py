"""What a worker process does for batches beside its requests: claim a piece of work, do it, write it down, again.

Whatever ends the process, its claims end too, and another one does the work anew with the same result.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter

import orjson

from service.classifier import Classifier
from service.errors import (
    DeviceLost,
    Draining,
    EmptyRequest,
    InvalidSource,
    ModelNotFound,
    ServiceError,
    StorageFailed,
)
from service.jobs import results, spool
from service.jobs.database import Batch
from service.jobs.inputs import Limits
from service.jobs.lease import held
from service.jobs.pieces import Pieces
from service.jobs.prepare import TOO_MUCH, Order, ReaderDied, in_a_process
from service.jobs.store import Store
from service.jobs.upkeep import Upkeep
from service.jobs.work import PREPARING, Claim, Work
from service.prediction import Prediction
from service.serving import ServedModels
from service.settings import Settings

IDLE_S = 1.0  # how often to look for what other processes have accepted or left
RETRY_S = 10.0  # after trouble that may meet every batch
BEHIND_S = 60.0  # how long no process may have a batch's model: those that are to have it may be starting
TIDY_S = 60.0
STOP_S = 5.0  # for what is under way to be let go: others take it over all the same, once this process has ended
MOST_DEATHS = 3  # of processes that read one upload: each may have been another's fault, but not all
LOST = "The batch's images are not on the server's disk any more, or damaged there; send the batch again."
NO_ROOM = (
    "The batch's results would take more than there is room for; ask for a smaller top_k, send it in parts, or once "
    "others are finished or deleted."
)
logger = logging.getLogger(__name__)


class Gone(Exception):
    """This process has just lost a batch's model; another one may have it."""


class Runner:
    """One process's share in the work for all batches."""

    def __init__(self, store: Store, models: ServedModels, classifier: Classifier, settings: Settings) -> None:
        self.work = Work(store)
        self._store, self._models, self._settings = store, models, settings
        self._upkeep = Upkeep(store, settings.jobs_keep_hours * 3600, settings.jobs_max_bytes)
        self._pieces = Pieces(classifier)
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._tidied = 0.0
        self._deaths = Counter[str]()  # of processes that read a batch's upload

    def start(self) -> None:
        """Begin to look for work."""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    def wake(self) -> None:
        """There is new work."""
        self._woken.set()

    async def stop(self) -> None:
        """Leave what is under way to others, or to the next start."""
        late = set[asyncio.Task[None]]()
        if self._task:
            self._task.remove_done_callback(self._ended)
            self._task.cancel()
            _, late = await asyncio.wait([self._task], timeout=STOP_S)
        self.work.close()
        if late:  # to close the database would be to wait for what it waits for
            logger.error("work for batches did not stop within %.0f s; the process ends without waiting for it", STOP_S)
        else:
            self._store.database.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not self._models.draining:  # nobody has asked it to
            error = None if task.cancelled() else task.exception()
            logger.critical("this process does no more work for batches; restart it", exc_info=error)

    async def _run(self) -> None:
        while True:
            wait_s = IDLE_S
            try:
                while await self._do_next():
                    pass
                await self._tidy()
            except StorageFailed as exc:
                logger.error("batches wait: %s", exc)
                wait_s = RETRY_S
            except Exception:
                logger.exception("batches wait")
                wait_s = RETRY_S
            self._woken.clear()
            try:
                await asyncio.wait_for(self._woken.wait(), wait_s)
            except TimeoutError:
                continue

    async def _do_next(self) -> bool:
        """Do one piece of work; False when there is none, or when it failed and waits."""
        if not self._store.exists:
            return False
        served = [loaded.identity for loaded in self._models.repository.inventory.models()]
        models = {f"{each.name} {each.version} {each.digest}" for each in served}
        if (claim := await asyncio.to_thread(self.work.claim, models, BEHIND_S)) is None:
            return False
        try:
            async with held(self.work, claim):
                await self._do(claim)
        except DeviceLost:
            raise
        except (StorageFailed, Draining, Gone, ReaderDied) as exc:  # Draining: perhaps just this model is unloaded
            logger.error("batch %s waits: %s", claim.batch.id, exc)
            return False
        except Exception:
            logger.exception("work for batch %s failed and will be tried again", claim.batch.id)
            return False
        return True

    async def _do(self, claim: Claim) -> None:
        try:
            if claim.chunk == PREPARING:
                await self._prepare(claim)
            else:
                await self._score(claim)
        except (InvalidSource, EmptyRequest, ModelNotFound) as exc:
            if isinstance(exc, ModelNotFound) and not claim.nobodys:
                raise Gone(exc.detail) from exc
            await asyncio.to_thread(self.work.fail, claim, exc)

    async def _prepare(self, claim: Claim) -> None:
        """Have the upload read in a process of its own; raises what is wrong with it."""
        settings, folder = self._settings, self._store.folder(claim.batch.id)
        others = await asyncio.to_thread(self._upkeep.unfinished, claim.batch.id)
        room = settings.jobs_max_bytes - others.bytes  # its upload not counted: that goes when it has been read
        limits = Limits(
            settings.max_image_bytes,
            settings.max_batch_images,
            max_unpacked_bytes=8 * settings.max_batch_upload_bytes,
            room_bytes=max(0, room),
        )
        try:
            total = await in_a_process(Order(str(folder.absolute()), claim.batch.source, limits))
        except ReaderDied as exc:
            self._deaths[claim.batch.id] += 1
            if self._deaths[claim.batch.id] < MOST_DEATHS:
                raise
            raise InvalidSource(TOO_MUCH) from exc
        await asyncio.to_thread(self.work.prepared, claim, total)

    async def _score(self, claim: Claim) -> None:
        batch, (first, count) = claim.batch, claim.span
        served = self._models.choose(batch.model, batch.version)
        if served.loaded.identity.digest != batch.digest:
            raise ModelNotFound(
                f"Model {batch.model} {batch.version} is not what it was when the batch was accepted: its weights are "
                "others. Send the batch again."
            )
        ids, outcomes = list[str | None](), list[Prediction | ServiceError]()
        try:
            if claim.chunk == 0:
                await asyncio.to_thread(self._check_room, batch)
            while len(ids) < count:
                more_ids, contents = await asyncio.to_thread(
                    spool.read, self._store.folder(batch.id), first + len(ids), count - len(ids)
                )
                ids += more_ids
                outcomes += await self._pieces.classify(contents, served)
        except (FileNotFoundError, spool.Damaged) as exc:
            # of a batch that was deleted meanwhile nothing is claimed, nor will it fail
            raise InvalidSource(LOST) from exc
        rows = await asyncio.to_thread(results.rows, first, ids, outcomes, batch.top_k, batch.threshold)
        failed = sum(isinstance(outcome, ServiceError) for outcome in outcomes)
        await asyncio.to_thread(self.work.finish, claim, rows, failed)

    def _check_room(self, batch: Batch) -> None:
        """Raise `InvalidSource` where the rows of all inputs would be more than others leave: none is written then."""
        labels, coverage = orjson.loads(batch.labels), orjson.loads(batch.coverage or "null")
        set_size = (coverage.get("mean_size") or len(labels)) if coverage else 0
        row_bytes = spool.row_bytes(labels, batch.top_k, set_size)
        others = self._upkeep.unfinished(batch.id)
        needed_bytes = spool.size(self._store.folder(batch.id)) + (batch.total or 0) * row_bytes
        if others.bytes + needed_bytes > self._settings.jobs_max_bytes:
            raise InvalidSource(NO_ROOM)

    async def _tidy(self) -> None:
        if time.monotonic() - self._tidied > TIDY_S:
            self._tidied = time.monotonic()
            await asyncio.to_thread(self._upkeep.tidy)
            if self._store.exists:
                await asyncio.to_thread(self.work.tidy)
