"""Requests with a deadline → those whose time is up, told one by one, as it comes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from service.queueing import Request


class Deadlines:
    """One timer for all requests that wait, since nearly all of them have their answer before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, late: Callable[[Request], None]) -> None:
        self._loop, self._late = loop, late
        self._times: dict[Request, float] = {}  # on the event loop's clock
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf

    def watch(self, request: Request) -> None:
        """Tell when its time is up, if it has a deadline, until it is forgotten."""
        if request.deadline is not None:
            self._times[request] = request.deadline
            if request.deadline < self._due:
                self._set(request.deadline)

    def forget(self, request: Request) -> None:
        """It has ended, one way or another."""
        self._times.pop(request, None)

    def _set(self, due: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer, self._due = self._loop.call_at(due, self._look), due

    def _look(self) -> None:
        """Tell of those whose time is up, and look again when the next one's is."""
        now, self._timer, self._due = self._loop.time(), None, math.inf
        for request in [request for request, due in self._times.items() if due <= now]:
            self.forget(request)
            self._late(request)
        if self._times:
            self._set(min(self._times.values()))
