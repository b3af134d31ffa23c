"""Rows → batches → each request's own answer, whatever its neighbours do. All of it in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import batching
from service.batching import BATCHERS, DynamicBatcher
from service.errors import (
    DeadlineExceeded,
    DeviceLost,
    Draining,
    InferenceFailed,
    OutOfMemory,
    Overloaded,
    ServiceError,
)
from service.observer import BatchReport
from service.queueing import Answer, Priority
from service.types import Probabilities, Rows
from tests.virtual_time import run

POISON = 255


def rows(*values: int) -> Rows:
    """One row of 2 × 2 pixels per value."""
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 2, 2, 3), np.uint8)


def values(answer: Answer) -> list[int]:
    """The values that came back: each row's answer is its own value, so it shows whose it is."""
    return [int(value) for value in answer.probabilities[:, 0]]


class Engine:
    """Takes `per_batch + per_row · rows` virtual seconds, fails when a row is poison, and remembers what it hears."""

    def __init__(self, per_batch: float = 0.0, per_row: float = 0.0) -> None:
        self.per_batch, self.per_row, self.sizes = per_batch, per_row, list[int]()
        self.reports, self.queue, self._turn = list[BatchReport](), list[int](), asyncio.Lock()

    def queued(self, rows: int) -> None:
        self.queue.append(rows)

    def ran(self, batch: BatchReport) -> None:
        self.reports.append(batch)

    @property
    def reasons(self) -> list[str]:
        return [report.reason for report in self.reports]

    async def __call__(self, batch: Rows) -> Probabilities:
        async with self._turn:
            self.sizes.append(len(batch))
            await asyncio.sleep(self.per_batch + self.per_row * len(batch))
        if (batch == POISON).any():
            raise InferenceFailed("poison")
        return batch[:, 0, 0, :1].astype(np.float32)


@pytest.fixture(params=list(BATCHERS.values()), ids=list(BATCHERS))
def batcher_cls(request: pytest.FixtureRequest) -> type[DynamicBatcher]:
    return request.param  # type: ignore[no-any-return]


def start(submit: Coroutine[None, None, Answer]) -> asyncio.Task[Answer]:
    return asyncio.get_running_loop().create_task(submit)


async def pause(seconds: float = 0.0) -> None:
    """Let virtual time pass: waiting, not polling."""
    await asyncio.sleep(seconds)


def now() -> float:
    return asyncio.get_running_loop().time()


# forming batches


def test_a_single_request_runs_at_once(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        engine = Engine(per_batch=0.01)
        batcher = batcher_cls(engine, max_batch_size=4, observer=engine)
        assert values(await batcher.submit(rows(7))) == [7]
        assert now() == pytest.approx(0.01)
        await pause()
        assert engine.reasons == ["idle"]

    run(scenario())


def test_what_comes_together_runs_together(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        engine = Engine()
        batcher = batcher_cls(engine, max_batch_size=8)
        await asyncio.gather(*(batcher.submit(rows(i)) for i in range(5)))
        assert engine.sizes == [5]

    run(scenario())


def test_a_batch_grows_while_the_engine_is_busy(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        engine = Engine(per_batch=0.01)
        batcher = batcher_cls(engine, max_batch_size=8)
        tasks = [start(batcher.submit(rows(1)))]
        for i in (2, 3, 4):
            await pause(0.002)
            tasks.append(start(batcher.submit(rows(i, i))))
        assert [values(answer) for answer in await asyncio.gather(*tasks)] == [[1], [2, 2], [3, 3], [4, 4]]
        assert engine.sizes == [1, 6]
        assert now() == pytest.approx(0.02)

    run(scenario())


def test_a_full_batch_waits_with_the_engine_not_with_the_event_loop(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        batcher = batcher_cls(Engine(per_batch=1), max_batch_size=4)
        tasks = [start(batcher.submit(rows(0)))]
        await pause(0.1)
        tasks += [start(batcher.submit(rows(i))) for i in range(9)]
        await pause(0.1)
        assert batcher.queued_rows == 5  # four are handed over, and no more than that
        bulk = batcher_cls(Engine(per_batch=1), max_batch_size=4)
        tasks += [start(bulk.submit(rows(0))), start(bulk.submit(rows(*range(9)), priority=Priority.BULK))]
        await pause(0.1)
        assert bulk.queued_rows == 6  # what is urgent may still come before them
        await asyncio.gather(*tasks)
        assert now() == pytest.approx(4)

    run(scenario())


def test_rows_are_counted_not_requests(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        engine = Engine()
        batcher = batcher_cls(engine, max_batch_size=4, observer=engine)
        answers = await asyncio.gather(*(batcher.submit(rows(i, i, i)) for i in range(4)))
        await pause()
        assert [values(answer) for answer in answers] == [[i] * 3 for i in range(4)]
        assert engine.sizes == [4, 4, 4]  # requests are cut so that every batch is full
        assert engine.reasons == ["full"] * 3

    run(scenario())


def test_the_observer_hears_nothing_of_a_batch_that_nobody_is_to_count(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        engine = Engine(per_batch=1)
        batcher = batcher_cls(engine, max_batch_size=4, observer=engine)
        assert values(await batcher.submit(rows(1), counted=False)) == [1]
        assert not engine.reports
        await asyncio.gather(batcher.submit(rows(2), counted=False), batcher.submit(rows(3, 4)))
        assert [(report.rows, len(report.waited_s)) for report in engine.reports] == [(3, 1)]

    run(scenario())


def test_the_observer_hears_of_every_change(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        engine = Engine(per_batch=0.1)
        batcher = batcher_cls(engine, max_batch_size=4, observer=engine)
        tasks = [start(batcher.submit(rows(1)))]
        await pause(0.04)
        tasks += [start(batcher.submit(rows(2, 2, 2))), start(batcher.submit(rows(3, 3)))]
        gone = start(batcher.submit(rows(4)))
        await pause(0.01)
        gone.cancel()
        await asyncio.gather(*tasks)
        await pause()
        assert engine.queue == [1, 0, 3, 5, 6, 2, 1, 0]
        assert [(report.reason, report.rows) for report in engine.reports] == [("idle", 1), ("full", 4), ("idle", 1)]
        assert engine.reports[1].waited_s == pytest.approx((0.06, 0.06))  # the last of the five rows waits longer
        assert engine.reports[2].waited_s == pytest.approx((0.16,))
        assert [report.ran_s for report in engine.reports] == pytest.approx([0.1] * 3)

    run(scenario())


def test_a_large_request_is_split_and_joined_in_order(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        engine = Engine()
        batcher = batcher_cls(engine, max_batch_size=4)
        assert values(await batcher.submit(rows(*range(10)))) == list(range(10))
        assert engine.sizes == [4, 4, 2]

    run(scenario())


@pytest.mark.parametrize(
    ("queued", "expected"),
    [(1, [1]), (7, [7]), (9, [8, 1]), (15, [8, 7]), (16, [16]), (17, [17]), (32, [32]), (33, [32, 1])],
)
def test_a_batch_is_not_mostly_padding(batcher_cls: type[DynamicBatcher], queued: int, expected: list[int]) -> None:
    """With sizes 1, 8 and 32 nine rows run as 8 + 1: padded to 32 they would cost more than twice."""

    async def scenario() -> None:
        engine = Engine()
        batcher = batcher_cls(engine, max_batch_size=32, batch_sizes=(1, 8, 32))
        await batcher.submit(rows(*range(queued)))
        assert engine.sizes == expected

    run(scenario())


# queue delay


def test_a_queue_delay_lets_a_batch_fill(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        engine = Engine()
        batcher = batcher_cls(engine, max_batch_size=3, max_queue_delay_ms=1000, observer=engine)
        tasks = []
        for i in range(3):
            tasks.append(start(batcher.submit(rows(i))))
            await pause(0.1)
        await asyncio.gather(*tasks)
        assert engine.sizes == [3]
        assert now() == pytest.approx(0.3)  # full closes it, long before the delay
        await pause()
        assert engine.reasons == ["full"]

    run(scenario())


def test_a_queue_delay_counts_from_the_oldest_rows_arrival(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        engine = Engine(per_batch=0.030)
        batcher = batcher_cls(engine, max_batch_size=8, max_queue_delay_ms=20, observer=engine)
        first = start(batcher.submit(rows(1)))
        await pause(0.025)  # the first runs, from 20 to 50 ms
        second = start(batcher.submit(rows(2)))
        await first
        assert now() == pytest.approx(0.050)
        await second  # it had waited 25 ms when the engine came free: it starts then, not 20 ms later
        assert now() == pytest.approx(0.080)
        await pause()
        assert engine.reasons == ["delay"] * 2

    run(scenario())


# failures


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([1, 2, 3, POISON]), min_size=1, max_size=6), min_size=1, max_size=8))
def test_only_the_guilty_rows_fail(requests: list[list[int]]) -> None:
    async def scenario() -> None:
        batcher = DynamicBatcher(Engine(), max_batch_size=7)
        outcomes = await asyncio.gather(*(batcher.submit(rows(*r)) for r in requests), return_exceptions=True)
        for request, outcome in zip(requests, outcomes, strict=True):
            guilty = {i for i, value in enumerate(request) if value == POISON}
            if len(guilty) == len(request):
                assert isinstance(outcome, InferenceFailed)
            else:
                assert isinstance(outcome, Answer)
                assert set(outcome.failures) == guilty
                assert all(np.isnan(outcome.probabilities[i]).all() for i in guilty)
                innocent = [i for i in range(len(request)) if i not in guilty]
                assert outcome.probabilities[innocent, 0].tolist() == [request[i] for i in innocent]
        assert batcher.refusal(1, 1) is None

    run(scenario())


@pytest.mark.parametrize("error", [OutOfMemory("no room"), DeviceLost()])
def test_what_no_row_is_guilty_of_is_not_tried_again_for_every_row(
    error: ServiceError, batcher_cls: type[DynamicBatcher]
) -> None:
    asked: list[int] = []

    async def full(batch: Rows) -> Probabilities:
        asked.append(len(batch))
        raise error

    async def scenario() -> None:
        with pytest.raises(type(error)):
            await batcher_cls(full, max_batch_size=8).submit(rows(1, 2, 3))
        assert asked == [3]

    run(scenario())


def test_a_foreign_exception_is_a_failed_inference(batcher_cls: type[DynamicBatcher]) -> None:
    async def explode(batch: Rows) -> Probabilities:
        if (batch == 13).any():
            raise ZeroDivisionError
        return batch[:, 0, 0, :1].astype(np.float32)

    async def scenario() -> None:
        batcher = batcher_cls(explode, max_batch_size=4)
        with pytest.raises(InferenceFailed):
            await batcher.submit(rows(13))
        assert values(await batcher.submit(rows(5))) == [5]

    run(scenario())


def test_an_engine_that_loses_rows_fails_the_batch_not_the_order(batcher_cls: type[DynamicBatcher]) -> None:
    async def forgetful(batch: Rows) -> Probabilities:
        return batch[1:, 0, 0, :1].astype(np.float32)

    async def scenario() -> None:
        with pytest.raises(InferenceFailed):
            await batcher_cls(forgetful, max_batch_size=4).submit(rows(1, 2, 3))

    run(scenario())


def test_a_batcher_that_breaks_refuses_instead_of_hanging(
    batcher_cls: type[DynamicBatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        batcher = batcher_cls(Engine(per_batch=1), max_batch_size=2)

        async def broken(*_: object) -> None:
            raise RuntimeError("a bug in the batcher itself")

        monkeypatch.setattr(batching, "answer", broken)
        tasks = [start(batcher.submit(rows(i))) for i in range(5)]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, InferenceFailed) for outcome in outcomes)
        with pytest.raises(InferenceFailed):
            await batcher.submit(rows(1))
        await batcher.stop(60)
        assert now() < 1

    run(scenario())


# callers that leave


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from(Priority), st.floats(0, 0.05)), min_size=1, max_size=20),
    st.integers(1, 7),
    st.dictionaries(st.integers(0, 19), st.floats(0, 0.1)),
)
def test_every_request_gets_its_own_answer_whoever_gives_up(
    requests: list[tuple[int, Priority, float]], max_batch: int, leavers: dict[int, float]
) -> None:
    async def scenario() -> None:
        batcher = DynamicBatcher(Engine(per_batch=0.003, per_row=0.001), max_batch_size=max_batch)

        async def ask(i: int, size: int, priority: Priority, arrival: float) -> Answer:
            await pause(arrival)
            return await batcher.submit(rows(*[i] * size), priority=priority)

        tasks = [start(ask(i, *request)) for i, request in enumerate(requests)]
        for leaver, when in leavers.items():
            if leaver < len(tasks):
                asyncio.get_running_loop().call_later(when, tasks[leaver].cancel)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for i, ((size, _, _), outcome) in enumerate(zip(requests, outcomes, strict=True)):
            if isinstance(outcome, BaseException):
                assert i in leavers
                assert isinstance(outcome, asyncio.CancelledError)
            else:
                assert values(outcome) == [i] * size
        assert batcher.queued_rows == batcher.queued_bytes == 0
        assert batcher.refusal(1, 1) is None

    run(scenario())


def test_a_caller_that_gives_up_frees_its_place_at_once(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        batcher = batcher_cls(Engine(per_batch=1), max_batch_size=4, queue_capacity=5)
        first = start(batcher.submit(rows(1)))
        await pause(0.1)
        waiting = start(batcher.submit(rows(*range(3))))
        await pause(0.1)
        assert batcher.queued_rows == 3
        waiting.cancel()
        await pause()
        assert batcher.queued_rows == 0
        assert values(await first) == [1]

    run(scenario())


# deadlines and limits


def test_a_deadline_is_kept_by_a_timer_while_the_engine_is_busy(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        engine = Engine(per_batch=1.0)
        batcher = batcher_cls(engine, max_batch_size=4)
        first = start(batcher.submit(rows(1)))
        await pause(0.1)
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(rows(2), deadline=0.3)
        assert now() == pytest.approx(0.3)
        assert batcher.queued_rows == 0
        await first
        assert engine.sizes == [1]

    run(scenario())


def test_a_deadline_is_kept_for_rows_that_are_with_the_engine(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        with pytest.raises(DeadlineExceeded):
            await batcher_cls(Engine(per_batch=1.0), max_batch_size=4).submit(rows(2), deadline=0.3)
        assert now() == pytest.approx(0.3)

    run(scenario())


def test_a_deadline_that_cannot_be_met_is_refused_at_once(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        batcher = batcher_cls(Engine(per_batch=0.01, per_row=0.01), max_batch_size=10, queue_capacity=1000)
        await batcher.submit(rows(1))
        await batcher.submit(rows(1, 2, 3))
        backlog = start(batcher.submit(rows(*[1] * 100)))  # 1.1 s of work
        await pause(0.001)
        asked = now()
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(rows(1), deadline=asked + 0.9)
        assert now() == asked
        assert values(await batcher.submit(rows(9), deadline=asked + 1.7)) == [9]
        await backlog

    run(scenario())


def test_an_idle_engine_refuses_no_deadline_that_it_can_meet(batcher_cls: type[DynamicBatcher]) -> None:
    """After single rows nothing is known of large batches; the guess must not be the sum of single ones."""

    async def scenario() -> None:
        batcher = batcher_cls(Engine(per_batch=0.01), max_batch_size=128)
        for _ in range(5):
            await batcher.submit(rows(1))
        await batcher.submit(rows(*[1] * 100), deadline=now() + 0.02)

    run(scenario())


def test_an_engine_that_was_slow_is_tried_again_once_it_is_idle(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        engine = Engine(per_batch=0.2)
        batcher = batcher_cls(engine, max_batch_size=4)
        for _ in range(20):
            await batcher.submit(rows(1))
        engine.per_batch = 0.002
        asked, refused = now(), 0
        while now() < asked + 10:
            await pause(0.01)
            try:
                await batcher.submit(rows(1), deadline=now() + 0.1)
            except DeadlineExceeded:
                refused += 1
                assert now() < asked + 5
        assert refused

    run(scenario())


def test_a_process_that_stood_still_once_refuses_nothing_afterwards(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        engine = Engine(per_batch=0.01)
        batcher = batcher_cls(engine, max_batch_size=4)
        for _ in range(20):
            await batcher.submit(rows(1))
        engine.per_batch = 600.0  # as a stopped process sees it: it goes on where it was
        await batcher.submit(rows(1))
        engine.per_batch = 0.01
        for _ in range(20):
            await batcher.submit(rows(1), deadline=now() + 0.1)

    run(scenario())


def test_heartbeats_do_not_keep_an_idle_engine_from_being_tried(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        engine = Engine(per_batch=10.0)
        batcher = batcher_cls(engine, max_batch_size=4)
        for _ in range(20):
            await batcher.submit(rows(1))
        engine.per_batch, asked = 0.01, now()
        while batcher.refusal(1, 12, deadline=now() + 1):
            await batcher.submit(rows(0), counted=False)
            await pause(2.5)
        assert 5 < now() - asked < 15

    run(scenario())


@pytest.mark.parametrize("limit", [{"queue_capacity": 5}, {"queue_bytes": 5 * 12}], ids=["rows", "bytes"])
def test_a_full_queue_refuses_and_says_when_to_come_back(
    batcher_cls: type[DynamicBatcher], limit: dict[str, int]
) -> None:
    async def scenario() -> None:
        batcher = batcher_cls(Engine(per_batch=2.0), max_batch_size=4, **limit)  # type: ignore[arg-type]
        await batcher.submit(rows(1))
        first = start(batcher.submit(rows(1)))
        await pause(0.5)
        waiting = start(batcher.submit(rows(*range(5))))
        await pause()
        with pytest.raises(Overloaded) as refused:
            await batcher.submit(rows(1))
        assert refused.value.retry_after_s == 6  # 1.5 s of the running batch, two more batches: 5.5 s
        assert len((await waiting).probabilities) == 5
        await first

    run(scenario())


# priorities


def test_interactive_requests_overtake_bulk_work_that_still_moves(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        batcher = batcher_cls(Engine(per_batch=0.01), max_batch_size=8)
        bulk = start(batcher.submit(rows(*[1] * 40), priority=Priority.BULK))
        await pause(0.005)  # eight of the bulk rows run, 32 wait
        flood = [start(batcher.submit(rows(*[i] * 8))) for i in range(100)]
        await bulk
        assert now() == pytest.approx(0.33)  # one bulk row in each of 32 batches
        assert sum(task.done() for task in flood) == 28  # seven interactive ones beside it
        await asyncio.gather(*flood)

    run(scenario())


# stopping


def test_stop_answers_what_waits_and_refuses_what_comes(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        batcher = batcher_cls(Engine(per_batch=1), max_batch_size=1)
        tasks = [start(batcher.submit(rows(i))) for i in range(3)]
        await pause(0.1)
        stopping = asyncio.get_running_loop().create_task(batcher.stop(10))
        await pause()
        with pytest.raises(Draining):
            await batcher.submit(rows(9))
        await stopping
        assert now() == pytest.approx(3)
        assert [values(await task) for task in tasks] == [[0], [1], [2]]

    run(scenario())


def test_stop_does_not_wait_for_a_queue_delay(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        engine = Engine()
        batcher = batcher_cls(engine, max_batch_size=4, max_queue_delay_ms=60_000, observer=engine)
        task = start(batcher.submit(rows(3)))
        await pause(0.1)
        await batcher.stop(10)
        assert values(await task) == [3]
        assert now() == pytest.approx(0.1)
        assert engine.reasons == ["drain"]

    run(scenario())


def test_stop_gives_up_after_its_timeout(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        batcher = batcher_cls(Engine(per_batch=1000), max_batch_size=1)
        tasks = [start(batcher.submit(rows(i))) for i in range(2)]
        await pause(0.1)
        await batcher.stop(5)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)  # the running one too: nobody hangs
        assert [type(outcome) for outcome in outcomes] == [Draining, Draining]
        assert now() == pytest.approx(5.1)

    run(scenario())


def test_an_idle_batcher_stops_at_once(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        await batcher_cls(Engine(), max_batch_size=1).stop(5)
        assert now() == 0

    run(scenario())


def test_what_would_be_refused_can_be_asked_before_its_rows_are_made(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        engine = Engine(per_row=1.0)
        batcher = batcher_cls(engine, max_batch_size=4, queue_capacity=8)
        await batcher.submit(rows(0, 1, 2, 3))  # takes 4 s
        await pause()  # the pace is known
        assert batcher.refusal(8, 8 * 3) is None
        assert isinstance(batcher.refusal(9, 9 * 3), Overloaded)
        assert batcher.refusal(4, 4 * 3, deadline=now() + 5) is None
        refused = batcher.refusal(4, 4 * 3, deadline=now() + 3)
        assert isinstance(refused, DeadlineExceeded)
        assert refused.retry_after_s == 4
        assert batcher.queued_rows == 0

    run(scenario())


def test_a_request_behind_others_is_taken_only_with_time_to_spare(batcher_cls: type[DynamicBatcher]) -> None:
    async def scenario() -> None:
        batcher = batcher_cls(Engine(per_batch=1.0), max_batch_size=1)
        await batcher.submit(rows(0))
        await pause()
        waiting = [start(batcher.submit(rows(i))) for i in range(3)]  # one runs, two wait: the next one's turn is 4th
        await pause()
        assert batcher.refusal(1, 3, deadline=now() + 6) is None
        assert isinstance(batcher.refusal(1, 3, deadline=now() + 5), DeadlineExceeded)
        await asyncio.gather(*waiting)

    run(scenario())
