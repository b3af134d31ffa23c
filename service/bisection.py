"""A batch → each of its requests' own answer. One that fails is halved until only the guilty rows fail."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.errors import DeviceLost, InferenceFailed, Overloaded, ServiceError
from service.queueing import Slice, halves
from service.types import Probabilities, Run

BLAMELESS = (Overloaded, DeviceLost)  # failures of a batch that no row of it is guilty of
logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Batch:
    """Rows that run together."""

    reason: str  # why it closed
    slices: list[Slice]
    rows: int
    closed: float  # when, on the event loop's clock
    failed: bool = False


async def answer(run: Run, batch: Batch, slices: list[Slice]) -> None:
    """Run these slices of the batch and settle each."""
    rows = slices[0].rows if len(slices) == 1 else np.concatenate([piece.rows for piece in slices])
    outcome: Probabilities | ServiceError
    try:
        outcome = await run(rows)
        if len(outcome) != len(rows):
            raise InferenceFailed("The model did not give one answer per image.")
    except Exception as exc:
        batch.failed = True
        if len(rows) > 1 and not isinstance(exc, BLAMELESS):
            for half in halves(slices, len(rows) // 2):
                if half := [piece for piece in half if not piece.request.answer.done()]:
                    await answer(run, batch, half)
            return
        if not isinstance(exc, ServiceError):
            logger.exception("the engine failed on a row")
            exc = InferenceFailed("The model failed on this image; tell the operator the request id if it repeats.")
        outcome = exc
    _settle(slices, outcome)


def _settle(slices: Sequence[Slice], outcome: Probabilities | ServiceError) -> None:
    start = 0
    for piece in slices:
        count = len(piece)
        part = outcome if isinstance(outcome, ServiceError) else outcome[start : start + count]
        piece.request.settle(piece.start, part, count)
        start += count
