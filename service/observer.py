"""What a batcher tells of itself: to metrics, to tests, to nobody."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class BatchReport(NamedTuple):
    """What became of one batch."""

    reason: str  # why it closed: full, idle, delay, drain
    rows: int
    waited_s: tuple[float, ...]  # of each request with rows in it that is to be counted, since it was enqueued
    ran_s: float


class Observer(Protocol):
    """Who wants to know how the queue fares; called on the event loop, so it must be quick."""

    def queued(self, rows: int) -> None:
        """So many rows wait now."""

    def ran(self, batch: BatchReport) -> None:
        """A batch has run, well or not; of one without a request that is to be counted nothing is said."""


class Unobserved:
    """Nobody wants to know."""

    def queued(self, rows: int) -> None:
        """See `Observer`."""

    def ran(self, batch: BatchReport) -> None:
        """See `Observer`."""
