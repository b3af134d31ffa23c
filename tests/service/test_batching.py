"""Rows → batches → each request's own answer, whatever its neighbours do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching import BATCHERS, DynamicBatcher
from service.errors import Draining, InferenceFailed, Overloaded
from service.types import Probabilities, Rows


def rows(*values: int) -> Rows:
    """One row of 2 × 2 pixels per value."""
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 2, 2, 3), np.uint8)


def answer(batch: Rows) -> Probabilities:
    """Each row's own value, so that an answer shows whose it is."""
    return batch[:, 0, 0, :1].astype(np.float32)


class Gate:
    """An engine that waits until it is let go, and remembers its batches."""

    def __init__(self) -> None:
        self.open, self.entered, self.sizes = threading.Event(), threading.Semaphore(0), list[int]()

    def __call__(self, batch: Rows) -> Probabilities:
        self.sizes.append(len(batch))
        self.entered.release()
        assert self.open.wait(10)
        return answer(batch)

    async def busy(self) -> None:
        """Until the engine has taken one more batch."""
        await asyncio.to_thread(self.entered.acquire)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture(params=list(BATCHERS.values()), ids=list(BATCHERS))
def batcher_cls(request: pytest.FixtureRequest) -> type[DynamicBatcher]:
    return request.param  # type: ignore[no-any-return]


def test_a_single_request_is_answered(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        batcher = batcher_cls(answer, max_batch_size=4)
        assert (await batcher.submit(rows(7))).tolist() == [[7]]
        await batcher.stop(1)

    asyncio.run(scenario())


def test_what_waits_while_the_engine_is_busy_becomes_one_batch(batcher_cls: type[DynamicBatcher], gate: Gate) -> None:
    async def scenario() -> None:
        batcher = batcher_cls(gate, max_batch_size=8)
        first = asyncio.create_task(batcher.submit(rows(1)))
        await gate.busy()
        rest = [asyncio.create_task(batcher.submit(rows(i, i))) for i in (2, 3, 4)]
        await asyncio.sleep(0)
        gate.open.set()
        assert [(await task).ravel().tolist() for task in [first, *rest]] == [[1], [2, 2], [3, 3], [4, 4]]
        assert gate.sizes == [1, 6]
        await batcher.stop(1)

    asyncio.run(scenario())


def test_a_large_request_is_split_and_joined_in_order(batcher_cls: type[DynamicBatcher]) -> None:
    sizes: list[int] = []

    def infer(batch: Rows) -> Probabilities:
        sizes.append(len(batch))
        return answer(batch)

    async def scenario() -> None:
        batcher = batcher_cls(infer, max_batch_size=4)
        assert (await batcher.submit(rows(*range(10)))).ravel().tolist() == list(range(10))
        assert sizes == [4, 4, 2]
        await batcher.stop(1)

    asyncio.run(scenario())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 7), st.sets(st.integers(0, 19)))
def test_every_request_gets_its_own_answer_whoever_gives_up(
    sizes: list[int], max_batch: int, leavers: set[int]
) -> None:
    async def scenario() -> None:
        batcher = DynamicBatcher(answer, max_batch_size=max_batch)
        tasks = [asyncio.create_task(batcher.submit(rows(*[i] * size))) for i, size in enumerate(sizes)]
        await asyncio.sleep(0)
        for leaver in leavers & set(range(len(tasks))):
            tasks[leaver].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for i, (size, result) in enumerate(zip(sizes, results, strict=True)):
            if isinstance(result, BaseException):
                assert i in leavers
                assert isinstance(result, asyncio.CancelledError)
            else:
                assert result.ravel().tolist() == [i] * size
        assert batcher.queued_rows == 0
        assert batcher.alive
        await batcher.stop(1)

    asyncio.run(scenario())


def test_only_the_guilty_request_fails(batcher_cls: type[DynamicBatcher], gate: Gate) -> None:
    def infer(batch: Rows) -> Probabilities:
        result = gate(batch)
        if (batch == 13).any():
            raise InferenceFailed("bad luck")
        return result

    async def scenario() -> None:
        batcher = batcher_cls(infer, max_batch_size=16)
        first = asyncio.create_task(batcher.submit(rows(0)))
        await gate.busy()
        tasks = [asyncio.create_task(batcher.submit(rows(i))) for i in range(10, 18)]
        await asyncio.sleep(0)
        gate.open.set()
        await first
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [r.item() for r in results if isinstance(r, np.ndarray)] == [10, 11, 12, 14, 15, 16, 17]
        assert isinstance(results[3], InferenceFailed)
        await batcher.stop(1)

    asyncio.run(scenario())


def test_a_foreign_exception_fails_its_request_and_not_the_loop(batcher_cls: type[DynamicBatcher]) -> None:
    def infer(batch: Rows) -> Probabilities:
        if (batch == 13).any():
            raise ZeroDivisionError
        return answer(batch)

    async def scenario() -> None:
        batcher = batcher_cls(infer, max_batch_size=4)
        with pytest.raises(ZeroDivisionError):
            await batcher.submit(rows(13))
        assert (await batcher.submit(rows(5))).item() == 5
        await batcher.stop(1)

    asyncio.run(scenario())


def test_a_full_queue_refuses(batcher_cls: type[DynamicBatcher], gate: Gate) -> None:
    async def scenario() -> None:
        batcher = batcher_cls(gate, max_batch_size=4, queue_capacity=5)
        first = asyncio.create_task(batcher.submit(rows(1)))
        await gate.busy()
        waiting = asyncio.create_task(batcher.submit(rows(*range(5))))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batcher.submit(rows(1))
        gate.open.set()
        assert len(await waiting) == 5
        await first
        await batcher.stop(1)

    asyncio.run(scenario())


def test_a_caller_that_gives_up_frees_its_place(batcher_cls: type[DynamicBatcher], gate: Gate) -> None:
    async def scenario() -> None:
        batcher = batcher_cls(gate, max_batch_size=4, queue_capacity=5)
        first = asyncio.create_task(batcher.submit(rows(1)))
        await gate.busy()
        waiting = asyncio.create_task(batcher.submit(rows(*range(5))))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert batcher.queued_rows == 0
        gate.open.set()
        await first
        await batcher.stop(1)

    asyncio.run(scenario())


def test_a_queue_delay_lets_a_batch_fill(batcher_cls: type[DynamicBatcher], gate: Gate) -> None:
    gate.open.set()

    async def scenario() -> None:
        batcher = batcher_cls(gate, max_batch_size=3, max_queue_delay_ms=60_000)
        tasks = [asyncio.create_task(batcher.submit(rows(i))) for i in range(3)]  # full: closes long before the delay
        assert [(await task).item() for task in tasks] == [0, 1, 2]
        assert gate.sizes == [3]
        await batcher.stop(1)

    asyncio.run(scenario())


def test_a_queue_delay_ends(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        batcher = batcher_cls(answer, max_batch_size=3, max_queue_delay_ms=5)
        assert (await batcher.submit(rows(1))).item() == 1
        await batcher.stop(1)

    asyncio.run(scenario())


def test_stop_answers_what_waits_and_refuses_what_comes(batcher_cls: type[DynamicBatcher], gate: Gate) -> None:
    async def scenario() -> None:
        batcher = batcher_cls(gate, max_batch_size=1)
        tasks = [asyncio.create_task(batcher.submit(rows(i))) for i in range(3)]
        await gate.busy()
        stopping = asyncio.create_task(batcher.stop(10))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            await batcher.submit(rows(9))
        gate.open.set()
        await stopping
        assert [(await task).item() for task in tasks] == [0, 1, 2]

    asyncio.run(scenario())


def test_stop_gives_up_after_its_timeout(batcher_cls: type[DynamicBatcher], gate: Gate) -> None:
    async def scenario() -> None:
        batcher = batcher_cls(gate, max_batch_size=1)
        tasks = [asyncio.create_task(batcher.submit(rows(i))) for i in range(2)]
        await gate.busy()
        await batcher.stop(0.01)
        results = await asyncio.gather(*tasks, return_exceptions=True)  # the running one too: nobody hangs
        assert [type(result) for result in results] == [Draining, Draining]
        gate.open.set()

    asyncio.run(scenario())
