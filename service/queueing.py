"""What waits for the engine: requests in two lanes, taken out row by row, answered row by row."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from service.errors import ServiceError
from service.types import Probabilities, Rows

NO_FAILURES: Mapping[int, ServiceError] = MappingProxyType({})
BULK_SHARE = 1 / 8  # of the rows run while both kinds wait: bulk work is slow then, but never starves


class Priority(IntEnum):
    """Who goes first when both wait."""

    INTERACTIVE = 0
    BULK = 1


class Answer(NamedTuple):
    """Probabilities (N, classes); a row that the engine failed on is NaN there and has its error in `failures`."""

    probabilities: Probabilities
    failures: Mapping[int, ServiceError]


@dataclass(eq=False, slots=True)
class Request:
    """Rows of one caller; the first `taken` of them are with the engine or answered."""

    rows: Rows
    priority: Priority
    enqueued: float  # of the event loop's monotonic clock, as is the deadline
    deadline: float | None
    foreseen: float  # seconds until its answer, when it came
    answer: asyncio.Future[Answer]
    counted: bool = True  # whether who observes the batches is to know of it
    taken: int = 0
    answered: int = 0
    probabilities: Probabilities | None = None
    failures: dict[int, ServiceError] | None = None

    def fail(self, error: ServiceError) -> None:
        """End the request with an error, unless it has ended."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def settle(self, start: int, outcome: Probabilities | ServiceError, count: int) -> None:
        """Take in what became of `count` rows from `start`; the last ones complete the answer."""
        if isinstance(outcome, ServiceError):
            self.failures = {**(self.failures or {}), **dict.fromkeys(range(start, start + count), outcome)}
        elif count == len(self.rows):
            self.probabilities = outcome
        else:
            if self.probabilities is None:
                self.probabilities = np.full((len(self.rows), outcome.shape[1]), np.nan, np.float32)
            self.probabilities[start : start + count] = outcome
        self.answered += count
        if self.answered < len(self.rows) or self.answer.done():
            return
        if self.probabilities is not None:
            self.answer.set_result(Answer(self.probabilities, self.failures or NO_FAILURES))
        elif self.failures:  # not one row succeeded
            self.answer.set_exception(next(iter(self.failures.values())))


@dataclass(slots=True)
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
        self.rows += len(request.rows)
        self.bytes += request.rows.nbytes

    def remove(self, request: Request) -> bool:
        """Forget what of the request still waits; whether something did."""
        if request not in self._requests:
            return False
        del self._requests[request]
        self._taken(request, len(request.rows) - request.taken)
        return True

    def take(self, count: int) -> list[Slice]:
        """At most `count` rows, the oldest first; a request may be taken in pieces."""
        slices = []
        while count and (request := self.oldest) is not None:
            start, stop = request.taken, min(request.taken + count, len(request.rows))
            slices.append(Slice(request, start, stop))
            request.taken, count = stop, count - (stop - start)
            self._taken(request, stop - start)
            if stop == len(request.rows):
                del self._requests[request]
        return slices

    def _taken(self, request: Request, rows: int) -> None:
        self.rows -= rows
        self.bytes -= rows * request.rows[0].nbytes


class Queue:
    """Both lanes: interactive rows go first, but bulk rows get their share of every batch."""

    def __init__(self) -> None:
        self._interactive, self._bulk = self._lanes = (Lane(), Lane())  # by priority
        self._bulk_owed = 0.0  # rows of its share that bulk work has not had yet

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._interactive.rows + self._bulk.rows

    @property
    def bytes(self) -> int:
        """Their pixels."""
        return self._interactive.bytes + self._bulk.bytes

    @property
    def waiting_since(self) -> float | None:
        """When the request that has waited longest was enqueued, on the event loop's clock."""
        return min((lane.oldest.enqueued for lane in self._lanes if lane.oldest), default=None)

    def rows_before(self, priority: Priority) -> int:
        """Rows that a new request of this priority finds before it."""
        return self._interactive.rows if priority is Priority.INTERACTIVE else self.rows

    def add(self, request: Request) -> None:
        """Enqueue."""
        self._lanes[request.priority].add(request)

    def remove(self, request: Request) -> bool:
        """Forget what of the request still waits; whether something did."""
        return self._lanes[request.priority].remove(request)

    def take(self, size: int) -> list[Slice]:
        """The next batch, of `size` rows or all that wait."""
        interactive, bulk = self._interactive, self._bulk
        if not bulk.rows:
            return interactive.take(size)
        granted = 0
        if interactive.rows:
            self._bulk_owed = min(self._bulk_owed + BULK_SHARE * size, size)
            granted = min(int(self._bulk_owed), bulk.rows)
        batch = interactive.take(size - granted)
        of_bulk = bulk.take(size - sum(map(len, batch)))
        self._bulk_owed = max(0.0, self._bulk_owed - sum(map(len, of_bulk)))
        return batch + of_bulk

    def refuse_all(self, error: ServiceError) -> None:
        """Empty the queue; every request ends with `error`."""
        for lane in self._lanes:
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
