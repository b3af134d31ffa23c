"""The event loop of the server."""

from __future__ import annotations

import asyncio
import time

from service.event_loop import Loop


def test_its_clock_goes_on_within_a_turn() -> None:
    async def scenario() -> None:
        times = [asyncio.get_running_loop().time() for _ in range(1000)]
        assert len(set(times)) > 500

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(scenario())


def test_its_timers_go_by_its_clock() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        began, due = time.monotonic(), asyncio.Event()
        loop.call_at(loop.time() + 0.02, due.set)
        await due.wait()
        assert time.monotonic() - began > 0.018  # the delay is rounded to a millisecond, its beginning down to one

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(scenario())
