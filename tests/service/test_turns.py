"""Decoding in turns: nobody waits for another's hundreds of pictures, and who can't be in time need not wait at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from service import turns as turns_module
from service.errors import DeadlineExceeded, Overloaded
from service.turns import Turns, run_in


def played(play: Callable[[Turns], Awaitable[None]], **limits: int) -> None:
    async def run() -> None:
        async with asyncio.timeout(60):
            await play(Turns(limits.get("threads", 1), max_bytes=limits.get("max_bytes", 1 << 20)))

    asyncio.run(run())


class Pictures:
    """Each takes a whole turn, and none goes on before it may."""

    def __init__(self, name: str, count: int, done: list[str]) -> None:
        self.name, self.count, self.done = name, count, done
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[None]:
        for _ in range(self.count):
            self.begun.set()
            assert self.may_go_on.wait(30)
            self.done.append(self.name)
            yield

    async def has_begun(self) -> None:
        await asyncio.to_thread(self.begun.wait, 30)


def test_all_steps_are_done_before_it_returns() -> None:
    done: list[str] = []

    async def play(turns: Turns) -> None:
        pictures = Pictures("a", 5, done)
        pictures.may_go_on.set()
        await turns.run(iter(pictures), 5, None)
        assert done == ["a"] * 5

    played(play)


def test_requests_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module._go_through, "__defaults__", (1e-9,))  # seconds: every picture is a turn
    done: list[str] = []

    async def play(turns: Turns) -> None:
        many, one = Pictures("many", 4, done), Pictures("one", 1, done)
        first = asyncio.create_task(turns.run(iter(many), 4, None))
        await many.has_begun()
        one.may_go_on.set()
        second = asyncio.create_task(turns.run(iter(one), 1, None))
        await asyncio.sleep(0)
        many.may_go_on.set()
        await asyncio.gather(first, second)

    played(play)
    assert done.index("one") == 1
    assert done.count("many") == 4


def test_a_short_turn_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module._go_through, "__defaults__", (60.0,))  # seconds: short even where all stands still
    done: list[str] = []

    async def play(turns: Turns) -> None:
        many, one = Pictures("many", 4, done), Pictures("one", 1, done)
        many.may_go_on.set()
        one.may_go_on.set()
        await asyncio.gather(turns.run(iter(many), 4, None), turns.run(iter(one), 1, None))

    played(play)
    assert done == ["many"] * 4 + ["one"]


def test_who_can_not_be_in_time_is_refused_at_once() -> None:
    async def play(turns: Turns) -> None:
        loop, one = asyncio.get_running_loop(), Pictures("one", 1, [])
        turns._turn_s = 1000.0
        first = asyncio.create_task(turns.run(iter(one), 1, loop.time() + 30))  # nobody waits before it: who knows
        await one.has_begun()
        turns._turn_s = 10.0
        with pytest.raises(DeadlineExceeded, match="those that wait before them") as refused:
            await turns.run(iter(Pictures("late", 1, [])), 1, loop.time() + 26)  # some wait longer
        assert refused.value.retry_after_s == 20
        patient = asyncio.create_task(turns.run(iter(()), 1, loop.time() + 50))
        one.may_go_on.set()
        await asyncio.gather(first, patient)

    played(play)


def test_nobody_waits_while_a_thread_is_free_and_all_threads_share_what_waits() -> None:
    async def play(turns: Turns) -> None:
        loop, tasks = asyncio.get_running_loop(), list[asyncio.Task[None]]()
        each_one = Pictures("a", 1, []), Pictures("b", 1, [])
        for pictures in each_one:
            turns._turn_s = 1000.0
            tasks.append(asyncio.create_task(turns.run(iter(pictures), 1, loop.time() + 30)))
            await pictures.has_begun()
        turns._turn_s = 10.0
        with pytest.raises(DeadlineExceeded, match="those that wait before them") as refused:
            await turns.run(iter(Pictures("late", 1, [])), 1, loop.time() + 20)
        assert refused.value.retry_after_s == 20
        for pictures in each_one:
            pictures.may_go_on.set()
        await asyncio.gather(*tasks)

    played(play, threads=2)


def test_what_waits_is_bounded_in_bytes_but_for_the_first() -> None:
    async def play(turns: Turns) -> None:
        large = Pictures("large", 1, [])
        first = asyncio.create_task(turns.run(iter(large), 1000, None))
        await large.has_begun()
        with pytest.raises(Overloaded, match="Too many large images"):
            await turns.run(iter(()), 1, None)
        large.may_go_on.set()
        await first
        small = Pictures("small", 1, [])
        second = asyncio.create_task(turns.run(iter(small), 60, None))
        await small.has_begun()
        with pytest.raises(Overloaded, match="Too many large images"):
            await turns.run(iter(()), 41, None)
        third = asyncio.create_task(turns.run(iter(()), 40, None))
        small.may_go_on.set()
        await asyncio.gather(second, third)

    played(play, max_bytes=100)


def test_a_caller_that_is_gone_leaves_no_turn_behind() -> None:
    done: list[str] = []

    async def play(turns: Turns) -> None:
        running, waiting = Pictures("running", 3, done), Pictures("waiting", 1, done)
        tasks = [asyncio.create_task(turns.run(iter(running), 1, None))]
        await running.has_begun()
        tasks.append(asyncio.create_task(turns.run(iter(waiting), 1, None)))
        await asyncio.sleep(0)
        assert (turns._open, turns._bytes) == (2, 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (turns._open, turns._bytes) == (0, 0)
        running.may_go_on.set()
        waiting.may_go_on.set()
        await turns.run(iter(()), 1, None)

    played(play)
    assert done == ["running"]


def test_the_pace_is_that_of_the_last_turns_without_a_pause() -> None:
    async def play(turns: Turns) -> None:
        turns._turn_s = 10.0
        await turns.run(iter(()), 1, None)
        assert 0 < turns._turn_s < 1  # after a pause nothing is known
        turns._turn_s = 10.0
        await asyncio.gather(*(turns.run(iter(()), 1, None) for _ in range(101)))
        assert 0 < turns._turn_s < 1

    played(play)


def test_one_quick_turn_does_not_make_slow_ones_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module._go_through, "__defaults__", (60.0,))  # seconds: one turn, even where all stands

    async def play(turns: Turns) -> None:
        one = Pictures("one", 1, [])
        quick = asyncio.create_task(turns.run(iter(one), 1, None))
        await one.has_begun()
        turns._turn_s = 100.0
        one.may_go_on.set()
        await quick
        assert 95 <= turns._turn_s < 100

    played(play)


def test_what_waits_for_threads_elsewhere_takes_turns_and_ends_in_time_too() -> None:
    done: list[str] = []

    async def play(turns: Turns) -> None:
        with ThreadPoolExecutor(1) as threads:
            free = Pictures("free", 3, done)
            free.may_go_on.set()
            await turns.run(iter(free), 3, None, threads)
            stuck = Pictures("stuck", 3, done)
            with pytest.raises(DeadlineExceeded, match="before its images were decoded"):
                await turns.run(iter(stuck), 3, asyncio.get_running_loop().time() + 0.05, threads)
            stuck.may_go_on.set()
        assert not turns._pool._threads

    played(play)
    assert done.count("free") == 3
    assert done.count("stuck") <= 1


def test_what_need_not_take_turns_is_done_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module._go_through, "__defaults__", (1e-9,))
    done: list[str] = []

    async def play(_turns: Turns) -> None:
        with ThreadPoolExecutor(1) as threads:
            free = Pictures("free", 3, done)
            free.may_go_on.set()
            await run_in(threads, iter(free))
            gone = Pictures("gone", 3, done)
            task = asyncio.create_task(run_in(threads, iter(gone)))
            await gone.has_begun()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            gone.may_go_on.set()

    played(play)
    assert done == ["free"] * 3 + ["gone"]
