"""Whose time is up is told, at its time, and nobody else. Virtual time, but for the one test on uvloop."""

from __future__ import annotations

import asyncio

import numpy as np
import uvloop

from service.deadlines import Deadlines
from service.queueing import Priority, Request
from tests.virtual_time import run


def request(deadline: float | None) -> Request:
    rows = np.zeros((1, 2, 2, 3), np.uint8)
    return Request(rows, Priority.INTERACTIVE, 0.0, deadline, 0.0, asyncio.get_running_loop().create_future())


def test_each_is_told_once_at_its_time_in_whatever_order_they_came() -> None:
    async def scenario() -> None:
        loop, told = asyncio.get_running_loop(), list[tuple[Request, float]]()
        deadlines = Deadlines(loop, lambda late: told.append((late, loop.time())))
        first, second, third = (request(deadline) for deadline in (5.0, 2.0, 9.0))
        for each in (first, second, third, request(None)):
            deadlines.watch(each)
        await asyncio.sleep(100)
        assert told == [(second, 2.0), (first, 5.0), (third, 9.0)]

    run(scenario())


def test_who_is_forgotten_is_not_told() -> None:
    async def scenario() -> None:
        told = list[Request]()
        deadlines = Deadlines(asyncio.get_running_loop(), told.append)
        gone, waiting = request(2.0), request(3.0)
        for each in (gone, waiting):
            deadlines.watch(each)
        deadlines.forget(gone)
        deadlines.forget(request(None))  # never watched
        await asyncio.sleep(100)
        assert told == [waiting]

    run(scenario())


def test_one_that_is_due_already_disturbs_none_that_is_not() -> None:
    """On uvloop, whose handle for what is due already does not say when."""

    async def scenario() -> None:
        loop, told = asyncio.get_running_loop(), list[Request]()
        deadlines = Deadlines(loop, told.append)
        late, early = request(loop.time() - 1), request(loop.time() + 60)
        for each in (late, early):
            deadlines.watch(each)
        await asyncio.sleep(0.01)
        assert told == [late]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
