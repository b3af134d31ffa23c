"""A batch that fails is halved until each row has what it deserves; `test_batching` does the same through a queue."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from service.bisection import Batch, answer
from service.errors import InferenceFailed, Overloaded
from service.queueing import Answer, Priority, Request, Slice
from service.types import Probabilities, Rows, Run
from tests.virtual_time import run

POISON = 255


class Engine:
    """Each row's own value comes back; a batch with poison in it fails with `failure`."""

    def __init__(self, failure: Exception) -> None:
        self.failure, self.sizes = failure, list[int]()

    async def __call__(self, rows: Rows) -> Probabilities:
        self.sizes.append(len(rows))
        if (rows == POISON).any():
            raise self.failure
        return rows[:, 0, 0, :1].astype(np.float32)


def answered(engine: Run, *requests: list[int]) -> tuple[Batch, list[Answer | BaseException]]:
    async def scenario() -> tuple[Batch, list[Answer | BaseException]]:
        slices = []
        for values in requests:
            rows = np.repeat(np.array(values, np.uint8), 12).reshape(-1, 2, 2, 3)
            future = asyncio.get_running_loop().create_future()
            request = Request(rows, Priority.INTERACTIVE, 0.0, None, 0.0, future)
            slices.append(Slice(request, 0, len(rows)))
        batch = Batch("idle", slices, sum(map(len, slices)), 0.0)
        await answer(engine, batch, slices)
        return batch, await asyncio.gather(*(piece.request.answer for piece in slices), return_exceptions=True)

    return run(scenario())


def test_every_request_has_its_own_rows() -> None:
    batch, (first, second) = answered(Engine(ValueError()), [1, 2], [3])
    assert not batch.failed
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert (first.probabilities.tolist(), second.probabilities.tolist()) == ([[1], [2]], [[3]])


def test_only_the_guilty_row_fails_and_it_is_found_in_few_steps() -> None:
    engine = Engine(ValueError("of the model"))
    batch, (first, second) = answered(engine, [1, 2, 3, POISON], [5, 6, 7, 8])
    assert batch.failed
    assert engine.sizes == [8, 4, 2, 2, 1, 1, 4]
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert set(first.failures) == {3}
    assert isinstance(first.failures[3], InferenceFailed)
    assert first.probabilities[:3].tolist() == [[1], [2], [3]]
    assert not second.failures


def test_a_failure_that_no_row_is_guilty_of_is_that_of_all_at_once() -> None:
    engine = Engine(Overloaded("The device's memory is full."))
    _, outcomes = answered(engine, [1], [POISON])
    assert engine.sizes == [2]
    assert [type(outcome) for outcome in outcomes] == [Overloaded, Overloaded]


@pytest.mark.parametrize("rows", [1, 3])
def test_too_few_answers_are_none(rows: int) -> None:
    async def short(batch: Rows) -> Probabilities:
        return np.zeros((len(batch) - 1, 2), np.float32)

    _, (outcome,) = answered(short, [1] * rows)
    assert isinstance(outcome, InferenceFailed)
