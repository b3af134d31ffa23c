"""What waits for the engine: requests in two lanes, taken out row by row, answered row by row."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from service.errors import ServiceError
from service.types import Probabilities, Rows

BULK_SHARE = 1 / 8  # of the rows run while both kinds wait: bulk work is slow then, but never starves


class Priority(IntEnum):
    """Who goes first when both wait."""

    INTERACTIVE = 0
    BULK = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """Probabilities (N, classes); a row that the engine failed on is NaN there and has its error in `failures`."""

    probabilities: Probabilities
    failures: dict[int, ServiceError]


@dataclass(eq=False, slots=True)
class Request:
    """Rows of one caller; the first `taken` of them are with the engine or answered."""

    rows: Rows
    priority: Priority
    enqueued: float  # of the event loop's monotonic clock
    answer: asyncio.Future[Answer]
    unanswered: int
    taken: int = 0
    probabilities: Probabilities | None = None
    failures: dict[int, ServiceError] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None

    def fail(self, error: ServiceError) -> None:
        """End the request with an error, unless it has ended."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def settle(self, start: int, outcome: Probabilities | ServiceError, count: int) -> None:
        """Take in what became of `count` rows from `start`; the last ones complete the answer."""
        if isinstance(outcome, ServiceError):
            self.failures.update(dict.fromkeys(range(start, start + count), outcome))
        elif count == len(self.rows):
            self.probabilities = outcome
        else:
            if self.probabilities is None:
                self.probabilities = np.full((len(self.rows), outcome.shape[1]), np.nan, np.float32)
            self.probabilities[start : start + count] = outcome
        self.unanswered -= count
        if self.unanswered or self.answer.done():
            return
        if self.probabilities is None:  # not one row succeeded
            self.answer.set_exception(next(iter(self.failures.values())))
        else:
            self.answer.set_result(Answer(self.probabilities, self.failures))


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive rows of one request, as they stand in a batch."""

    request: Request
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def rows(self) -> Rows:
        """The pixels."""
        return self.request.rows[self.start : self.stop]


class Lane:
    """Requests of one priority, first in, first out; one can leave from anywhere in constant time."""

    def __init__(self) -> None:
        self._requests: OrderedDict[Request, None] = OrderedDict()
        self.rows = self.bytes = 0

    @property
    def oldest(self) -> Request | None:
        """The request that has waited longest."""
        return next(iter(self._requests), None)

    def add(self, request: Request) -> None:
        """Enqueue."""
        self._requests[request] = None
        self._count(request, len(request.rows))

    def remove(self, request: Request) -> bool:
        """Forget what of the request still waits; whether something did."""
        if request not in self._requests:
            return False
        del self._requests[request]
        self._count(request, request.taken - len(request.rows))
        return True

    def take(self, count: int) -> list[Slice]:
        """At most `count` rows, the oldest first; a request may be taken in pieces."""
        slices = []
        while count and (request := self.oldest) is not None:
            start, stop = request.taken, min(request.taken + count, len(request.rows))
            slices.append(Slice(request, start, stop))
            request.taken, count = stop, count - (stop - start)
            self._count(request, start - stop)
            if stop == len(request.rows):
                del self._requests[request]
        return slices

    def _count(self, request: Request, rows: int) -> None:
        self.rows += rows
        self.bytes += rows * (request.rows.nbytes // len(request.rows))


class Queue:
    """Both lanes: interactive rows go first, but bulk rows get their share of every batch."""

    def __init__(self) -> None:
        self._lanes = {priority: Lane() for priority in Priority}
        self._bulk_owed = 0.0  # rows of its share that bulk work has not had yet

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return sum(lane.rows for lane in self._lanes.values())

    @property
    def bytes(self) -> int:
        """Their pixels."""
        return sum(lane.bytes for lane in self._lanes.values())

    @property
    def oldest(self) -> float | None:
        """When the request that has waited longest was enqueued."""
        return min((lane.oldest.enqueued for lane in self._lanes.values() if lane.oldest), default=None)

    def rows_before(self, priority: Priority) -> int:
        """Rows that a new request of this priority finds before it."""
        return sum(lane.rows for kind, lane in self._lanes.items() if kind <= priority)

    def add(self, request: Request) -> None:
        """Enqueue."""
        self._lanes[request.priority].add(request)

    def remove(self, request: Request) -> bool:
        """Forget what of the request still waits; whether something did."""
        return self._lanes[request.priority].remove(request)

    def take(self, size: int) -> list[Slice]:
        """The next batch, of `size` rows or all that wait."""
        interactive, bulk = self._lanes[Priority.INTERACTIVE], self._lanes[Priority.BULK]
        granted = 0
        if interactive.rows and bulk.rows:
            self._bulk_owed = min(self._bulk_owed + BULK_SHARE * size, size)
            granted = min(int(self._bulk_owed), bulk.rows)
        batch = interactive.take(size - granted)
        taken = sum(map(len, batch))
        batch += bulk.take(size - taken)
        self._bulk_owed = max(0.0, self._bulk_owed - (sum(map(len, batch)) - taken))
        return batch

    def refuse_all(self, error: ServiceError) -> None:
        """Empty the queue; every request ends with `error`."""
        for lane in self._lanes.values():
            while request := lane.oldest:
                lane.remove(request)
                request.fail(error)


def halves(batch: list[Slice], middle: int) -> tuple[list[Slice], list[Slice]]:
    """The batch's first `middle` rows and the rest; a slice that spans both is cut."""
    first: list[Slice] = []
    second: list[Slice] = []
    for piece in batch:
        cut = min(max(middle, 0), len(piece))
        if cut:
            first.append(Slice(piece.request, piece.start, piece.start + cut))
        if cut < len(piece):
            second.append(Slice(piece.request, piece.start + cut, piece.stop))
        middle -= len(piece)
    return first, second
