"""Few threads that decode for many requests: each request has its turn, as long as any other's, and then waits again.

Whoever sends a thousand large photos so keeps nobody waiting who sends one. Where more come than can be decoded, those
whose time is over by their turn are refused at once: else all would wait until theirs is, and none be answered.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from threading import Event

from service.errors import DeadlineExceeded, Overloaded
from service.pace import DECAY, SURE

TURN_S = 0.05  # or one picture, where that takes longer
NO_MORE = object()


class Turns:
    """The threads, and those who wait for them; use it within one event loop."""

    def __init__(self, threads: int, *, max_bytes: int) -> None:
        """`max_bytes` of pictures may wait; where none do, a request may bring more."""
        self._pool, self._threads, self._max_bytes = ThreadPoolExecutor(threads, "decode"), threads, max_bytes
        self._open = 0  # turns that run or wait
        self._bytes = 0  # of the requests that they belong to
        self._turn_s = 0.0  # how long they took lately

    async def run(
        self, pictures: Iterator[None], nbytes: int, deadline: float | None, elsewhere: Executor | None = None
    ) -> None:
        """Go through `pictures`, each step of which is work for a thread, or for one of those `elsewhere`.

        `deadline` is on the event loop's clock. Raises `DeadlineExceeded` when it is over, and at once when it can't be
        met, and `Overloaded`. A caller that is cancelled gives its turn back.
        """
        self._admit(nbytes, deadline)
        self._bytes += nbytes
        try:
            async with _until(deadline) as given_up:
                while not await self._turn(pictures, given_up, elsewhere or self._pool):
                    pass
        finally:
            self._bytes -= nbytes

    def _admit(self, nbytes: int, deadline: float | None) -> None:
        if self._open < self._threads:
            return
        wait_s = (self._open / self._threads + 1) * self._turn_s
        if self._bytes + nbytes > self._max_bytes:
            raise Overloaded(
                "Too many large images are waiting; try again in a moment, or send fewer at a time.",
                retry_after_s=math.ceil(wait_s),
            )
        if deadline is not None and wait_s > SURE * (deadline - asyncio.get_running_loop().time()):
            raise DeadlineExceeded(
                "The request's images can't be decoded in its time with those that wait before them; "
                "allow more time, send fewer images, or try again later.",
                retry_after_s=math.ceil(wait_s),
            )

    async def _turn(self, pictures: Iterator[None], given_up: Event, threads: Executor) -> bool:
        """Take one turn; whether the last picture is done."""
        if not self._open:
            self._turn_s = 0.0  # what was seen before says little of what comes after a pause
        self._open += 1
        try:
            done, took_s = await asyncio.get_running_loop().run_in_executor(threads, _go_through, pictures, given_up)
        finally:
            self._open -= 1
        self._turn_s = self._turn_s * DECAY + took_s * (1 - DECAY) if self._turn_s else took_s
        return done


async def run_in(threads: Executor, pictures: Iterator[None]) -> None:
    """Go through `pictures` in one of `threads`, in one go, however many others wait for them."""
    async with _until(None) as given_up:
        await asyncio.get_running_loop().run_in_executor(threads, _go_through, pictures, given_up, math.inf)


@asynccontextmanager
async def _until(deadline: float | None) -> AsyncIterator[Event]:
    """What is set when nobody waits for the pictures that are left."""
    given_up = Event()
    try:
        async with asyncio.timeout_at(deadline):
            yield given_up
    except TimeoutError as exc:
        raise DeadlineExceeded(
            "The request's time was up before its images were decoded; allow more time or send fewer images."
        ) from exc
    finally:
        given_up.set()


def _go_through(pictures: Iterator[None], given_up: Event, at_most_s: float = TURN_S) -> tuple[bool, float]:
    """In a thread: as many as there is time for; whether that was all, and how long it took in seconds."""
    began, took_s = time.perf_counter(), 0.0
    while not given_up.is_set() and took_s < at_most_s:
        done = next(pictures, NO_MORE) is NO_MORE
        took_s = time.perf_counter() - began
        if done:
            return True, took_s
    return False, took_s
