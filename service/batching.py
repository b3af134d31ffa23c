"""Requests' rows → batches for the engine → each request's own probabilities, in order.

The queue is bounded in rows; a batch closes as soon as the engine is free (delay 0) or after `max_queue_delay_ms`,
counted from when the oldest row came. A request leaves the queue when its caller gives up. A batch that fails is
halved until only the guilty requests fail. Raises `Overloaded`, `Draining`, or what the engine raised.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from service.errors import Draining, InferenceFailed, Overloaded, ServiceError
from service.types import Probabilities, Rows

Infer = Callable[[Rows], Probabilities]
logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Waiting:
    """Rows of one request, at most one batch of them."""

    rows: Rows
    enqueued: float  # of the event loop's monotonic clock
    answer: asyncio.Future[Probabilities]


class DynamicBatcher:
    """One queue and one thread for one engine. Create it inside the event loop that it serves."""

    def __init__(
        self, infer: Infer, *, max_batch_size: int, max_queue_delay_ms: float = 0, queue_capacity: int = 4096
    ) -> None:
        self._infer, self._max_batch_size, self._capacity = infer, max_batch_size, queue_capacity
        self._delay_s = max_queue_delay_ms / 1000
        self._queue: deque[Waiting] = deque()
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._accepting = True
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._task = self._loop.create_task(self._run())

    @property
    def queued_rows(self) -> int:
        """Rows that wait for the engine."""
        return sum(len(waiting.rows) for waiting in self._queue)

    @property
    def alive(self) -> bool:
        """Whether the loop that forms batches still runs."""
        return not self._task.done()

    async def submit(self, rows: Rows) -> Probabilities:
        """Probabilities (N, classes) of uint8 rows (N, H, W, 3), N ≥ 1; a caller that is cancelled leaves the queue."""
        if not self._accepting or not self.alive:
            raise Draining("The service is stopping; send the request to another instance, or again in a moment.")
        if self.queued_rows + len(rows) > self._capacity:
            raise Overloaded("Too many images are waiting; try again in a moment, or send fewer at a time.")
        parts = [
            Waiting(rows[start : start + self._max_batch_size], self._loop.time(), self._loop.create_future())
            for start in range(0, len(rows), self._max_batch_size)
        ]
        self._queue.extend(parts)
        self._changed.set()
        try:
            return np.concatenate(await asyncio.gather(*(part.answer for part in parts)))
        finally:
            for part in parts:
                part.answer.cancel()
                if part in self._queue:
                    self._queue.remove(part)

    async def stop(self, timeout_s: float) -> None:
        """Take nothing more, finish what waits, and after `timeout_s` refuse the rest."""
        self._accepting = False
        self._changed.set()
        await asyncio.wait([self._task], timeout=timeout_s)
        self._task.cancel()
        self._refuse_all(
            Draining("The service stopped before the image's turn came; send it again to another instance.")
        )
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        try:
            while self._accepting or self._queue:
                if not self._queue:
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                await self._let_it_fill()
                await self._answer(self._take())
        except Exception:  # must never happen; readiness shows it when it does
            logger.exception("the batching loop died")
            self._refuse_all(InferenceFailed("The service failed; send the request to another instance."))
            raise

    async def _let_it_fill(self) -> None:
        """With a queue delay, wait for more rows until the batch is full or its oldest row has waited long enough."""
        while self._queue and self._accepting and self.queued_rows < self._max_batch_size:
            left = self._queue[0].enqueued + self._delay_s - self._loop.time()
            if left <= 0:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _take(self) -> list[Waiting]:
        batch: list[Waiting] = []
        room = self._max_batch_size
        while self._queue and len(self._queue[0].rows) <= room:
            room -= len(self._queue[0].rows)
            batch.append(self._queue.popleft())
        return batch

    async def _answer(self, batch: list[Waiting]) -> None:
        batch = [waiting for waiting in batch if not waiting.answer.done()]
        if not batch:
            return
        rows = batch[0].rows if len(batch) == 1 else np.concatenate([waiting.rows for waiting in batch])
        try:
            probabilities = await self._loop.run_in_executor(self._thread, self._infer, rows)
        except asyncio.CancelledError:  # stopped in the middle: nobody else will answer these
            for waiting in batch:
                _fail(waiting, _stopped())
            raise
        except Exception as exc:
            if len(batch) == 1:
                _fail(batch[0], exc)
            else:
                middle = len(batch) // 2
                await self._answer(batch[:middle])
                await self._answer(batch[middle:])
            return
        start = 0
        for waiting in batch:
            end = start + len(waiting.rows)
            if not waiting.answer.done():
                waiting.answer.set_result(probabilities[start:end])
            start = end

    def _refuse_all(self, error: ServiceError) -> None:
        while self._queue:
            _fail(self._queue.popleft(), error)


def _stopped() -> Draining:
    return Draining("The service stopped before it had an answer; send the request again to another instance.")


def _fail(waiting: Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)


BATCHERS: dict[str, type[DynamicBatcher]] = {"dynamic": DynamicBatcher}
