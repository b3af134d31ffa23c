"""Requests' rows → batches for the engine → each request's own answer, row by row, in order.

A batch closes when the engine is free, when it is full, or when its oldest row has waited `max_queue_delay_ms` since it
was enqueued; what comes while the engine is busy joins the next one. A full one is handed over while another runs, so
that the engine goes on without waiting for a busy event loop. A request that is cancelled or late leaves the
queue at once. A batch that fails is halved until only the guilty rows fail. Raises `Overloaded`, `Draining`,
`DeadlineExceeded` and `InferenceFailed`. Nothing here polls: arrivals, answers and timers are all that moves it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence

from service.bisection import Batch, answer
from service.deadlines import Deadlines
from service.errors import DeadlineExceeded, Draining, InferenceFailed, Overloaded, ServiceError
from service.observer import BatchReport, Observer, Unobserved
from service.pace import SURE, Pace
from service.queueing import Answer, Priority, Queue, Request, Slice
from service.types import Rows, Run

AHEAD = 2  # batches with the engine: one runs, and one that is full may wait for it
logger = logging.getLogger(__name__)


class DynamicBatcher:
    """One queue for one engine, which runs batch after batch. Create it inside the event loop that it serves."""

    def __init__(
        self,
        run: Run,
        *,
        max_batch_size: int,
        batch_sizes: Sequence[int] = (),  # ascending; the engine pads to the next of them; none: it takes any
        max_queue_delay_ms: float = 0,
        queue_capacity: int = 4096,  # rows
        queue_bytes: int = 256 << 20,
        observer: Observer | None = None,
    ) -> None:
        self._run, self._max_batch_size, self._batch_sizes = run, max_batch_size, batch_sizes
        self._delay_s, self._capacity, self._capacity_bytes = max_queue_delay_ms / 1000, queue_capacity, queue_bytes
        self._loop = asyncio.get_running_loop()
        self._queue = Queue()
        self._pace = Pace()
        self._running: dict[asyncio.Task[None], Batch] = {}  # with the engine, in the order in which it takes them
        self._engine_free_since = 0.0
        self._idle_since = 0.0  # the same since the last counted request: heartbeats are no work
        self.succeeded = -math.inf  # when the last batch without a failure ended, on the event loop's clock
        self._woken = False
        self._delay_timer: asyncio.TimerHandle | None = None
        self._deadlines = Deadlines(self._loop, self._too_late)
        self._stopping: asyncio.Event | None = None  # set once nothing waits
        self._broken = False  # once forming batches itself has failed: nothing is answered from then on
        self._observer = observer or Unobserved()

    @property
    def queued_rows(self) -> int:
        """Rows that wait for the engine."""
        return self._queue.rows

    @property
    def queued_bytes(self) -> int:
        """Their pixels."""
        return self._queue.bytes

    def seconds_until(self, rows: int, priority: Priority = Priority.INTERACTIVE) -> float:
        """How long `rows` more rows would wait for their answer, by the measured pace."""
        running = 0.0
        for place, batch in enumerate(self._running.values()):
            left = self._pace.seconds(batch.rows, self._max_batch_size)
            running += left if place else max(0.0, left - (self._loop.time() - self._engine_began(batch)))
        return running + self._pace.seconds(self._queue.rows_before(priority) + rows, self._max_batch_size)

    async def submit(
        self,
        rows: Rows,
        *,
        priority: Priority = Priority.INTERACTIVE,
        deadline: float | None = None,
        counted: bool = True,
    ) -> Answer:
        """The answer for uint8 rows (N, H, W, 3), N ≥ 1; a caller that is cancelled leaves the queue.

        `deadline` is on the event loop's clock; what is not `counted` is left out of how long requests waited. Raises
        `DeadlineExceeded` when it is over, and at once when it can't be met; `InferenceFailed` only when every row
        failed.
        """
        if refused := self.refusal(len(rows), rows.nbytes, priority=priority, deadline=deadline):
            raise refused
        foreseen = self.seconds_until(len(rows), priority)
        request = Request(rows, priority, self._loop.time(), deadline, foreseen, self._loop.create_future(), counted)
        self._deadlines.watch(request)
        self._queue.add(request)
        self._observer.queued(self._queue.rows)
        self._wake()
        try:
            return await request.answer
        finally:
            self._leave(request)

    def refusal(
        self, rows: int, nbytes: int, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None
    ) -> ServiceError | None:
        """What `submit` would raise at once for so many rows of so many bytes: to be asked before making them."""
        if self._broken:
            return InferenceFailed("The service failed; send the request to another instance.")
        if self._stopping:
            return Draining("The service is stopping; send the request to another instance, or again in a moment.")
        queued_rows, queued_bytes = self._queue.rows, self._queue.bytes
        if queued_rows + rows > self._capacity or (queued_bytes and queued_bytes + nbytes > self._capacity_bytes):
            # an empty queue takes a request of any size in bytes, or a large one could never run
            return Overloaded(
                "Too many images are waiting; try again in a moment, or send fewer at a time.",
                retry_after_s=math.ceil(self.seconds_until(rows, priority)),
            )
        if deadline is None:
            return None
        wait, left = self.seconds_until(rows, priority), deadline - self._loop.time()
        if left > 0 and not queued_rows and not self._running and self._loop.time() - self._idle_since > wait:
            return None  # after so long an idleness it may be faster than it was: only running something tells
        if wait <= (left * SURE if self._queue.rows_before(priority) else left):  # some room where others wait before
            return None
        return DeadlineExceeded(
            "The request can't be answered in its time with what waits before it; "
            "allow more time, send fewer images, or try again later.",
            retry_after_s=math.ceil(wait),
        )

    def _too_late(self, request: Request) -> None:
        self._leave(request)
        request.fail(
            DeadlineExceeded("The request's time was up before its prediction; allow more time or send fewer images.")
        )

    def _leave(self, request: Request) -> None:
        self._deadlines.forget(request)
        if self._queue.remove(request):
            self._observer.queued(self._queue.rows)

    async def stop(self, timeout_s: float) -> None:
        """Take nothing more, finish what waits, and after `timeout_s` refuse the rest."""
        self._stopping = asyncio.Event()
        self._wake()
        try:
            async with asyncio.timeout(timeout_s):
                await self._stopping.wait()
        except TimeoutError:
            for task in self._running:
                task.cancel()
            self._queue.refuse_all(
                Draining("The service stopped before the image's turn came; send it again to another instance.")
            )

    def _wake(self) -> None:
        """Look for a batch once everything that arrives in this turn of the event loop has arrived."""
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._start_batch)

    def _start_batch(self) -> None:
        self._woken = False
        while (reason := self._reason_to_close()) is not None:
            slices = self._queue.take(self._size_for(self.queued_rows))
            batch = Batch(reason, slices, sum(map(len, slices)), self._loop.time())
            self._observer.queued(self._queue.rows)
            task = self._loop.create_task(answer(self._run, batch, batch.slices))
            self._running[task] = batch
            task.add_done_callback(self._finished)
        if self._stopping and not self._running and not self.queued_rows:
            self._stopping.set()

    def _reason_to_close(self) -> str | None:
        """Why a batch should run now; where only time is missing, a timer looks again."""
        queued = self.queued_rows
        if not queued or len(self._running) == AHEAD:
            return None
        if self._running:  # bulk work is not handed over ahead: what comes before it would have to wait for it
            return "full" if self._queue.rows_before(Priority.INTERACTIVE) >= self._max_batch_size else None
        if queued >= self._max_batch_size:
            return "full"
        if self._stopping:
            return "drain"
        if not self._delay_s:
            return "idle"
        due = self._delay_s + (self._queue.waiting_since or 0.0)
        if due <= self._loop.time():
            return "delay"
        if self._delay_timer:
            self._delay_timer.cancel()
        self._delay_timer = self._loop.call_at(due, self._start_batch)
        return None

    def _size_for(self, queued: int) -> int:
        """How many of the queued rows to run: all that fit, unless most of the batch would be padding."""
        size = min(queued, self._max_batch_size)
        above = next((allowed for allowed in self._batch_sizes if allowed >= size), size)
        below = max((allowed for allowed in self._batch_sizes if allowed <= size), default=size)
        return below if size * 2 < above else size

    def _engine_began(self, batch: Batch) -> float:
        return max(batch.closed, self._engine_free_since)

    def _finished(self, task: asyncio.Task[None]) -> None:
        """The engine has done a batch. Anything but a clean end of it ends its requests too."""
        batch, now = self._running.pop(task), self._loop.time()
        began, self._engine_free_since = self._engine_began(batch), now
        if waited := tuple(began - piece.request.enqueued for piece in batch.slices if piece.request.counted):
            self._idle_since = now
            self._observer.ran(BatchReport(batch.reason, batch.rows, waited, now - began))
        if task.cancelled():
            error: ServiceError = Draining(
                "The service stopped before it had an answer; send the request to another instance."
            )
            _fail(batch.slices, error)
        elif (exc := task.exception()) is not None:
            logger.critical("batching failed; nothing is answered from now on", exc_info=exc)
            self._broken = True
            error = InferenceFailed("The service failed; send the request to another instance.")
            _fail(batch.slices, error)
            self._queue.refuse_all(error)
        elif not batch.failed:
            self.succeeded = now
            self._pace.observe(batch.rows, now - began)
            for piece in batch.slices:
                if piece.stop == len(piece.request.rows):
                    self._pace.judge(piece.request.foreseen, now - piece.request.enqueued)
        self._start_batch()


def _fail(batch: list[Slice], error: ServiceError) -> None:
    for piece in batch:
        piece.request.fail(error)


BATCHERS: dict[str, type[DynamicBatcher]] = {"dynamic": DynamicBatcher}
