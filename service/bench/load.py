"""Requests, sent in a closed or an open loop → what became of each.

Closed loop: so many connections, each sending its next request when the last is answered; it finds the highest rate.
Open loop: requests arrive at a given rate whatever the server does, as they do from a world of independent clients.
There a request's latency counts from when it was due, not from when a connection was free for it: a server that stalls
would otherwise hide the wait of all who could not even send ("coordinated omission", G. Tene, 2013).
"""

from __future__ import annotations

import asyncio
import errno
import random
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from service.bench.connection import Connection

RECONNECT_S = 0.05  # while a server restarts: not so often that the tries are the load
DRAIN_S = 30.0  # how long the last answers are waited for
NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}  # for a connection more
NO_RIGHT = {401, 403}  # what is said to those without a key
Progress = Callable[["Outcome"], None]


class Unreachable(Exception):
    """The server can't be reached; the text says where it was looked for."""


@dataclass
class Outcome:
    """What a run has come to so far."""

    images_per_request: int
    latencies_s: array[float] = field(default_factory=lambda: array("d"))  # of answers with status 200, in order
    refusals_s: array[float] = field(default_factory=lambda: array("d"))  # of answers with another status
    statuses: Counter[int] = field(default_factory=Counter)  # 0: no answer
    seconds: float = 0.0
    late: int = 0  # requests that were due and never sent: all connections were busy to the end
    client_cpu_s: float = 0.0

    @property
    def answered(self) -> int:
        """Requests that ended, with whatever status."""
        return sum(self.statuses.values())

    @property
    def images_per_second(self) -> float:
        """Goodput: images of requests answered with 200."""
        return self.statuses[200] * self.images_per_request / self.seconds if self.seconds else 0.0

    @property
    def shut_out(self) -> bool:
        """Whether all that was answered is that this client has no right to an answer."""
        return bool(self.statuses) and self.statuses.keys() <= NO_RIGHT


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Target:
        """The host and port of an http URL that has no more than these; raises `Unreachable` for any other."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").encode("idna").decode(), parts.port
        except ValueError:  # UnicodeError among them
            host = ""
        if not host or parts.scheme != "http" or " " in url or not url.isprintable():
            raise Unreachable(f"{url} is no address like http://127.0.0.1:8000.")
        if "@" in parts.netloc or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise Unreachable(f"{url} is more than a server's address; leave out all but its host and port.")
        return cls(host, 80 if port is None else port)

    @property
    def authority(self) -> str:
        """As requests name it (RFC 3986, section 3.2)."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Load:
    """One run against one server."""

    def __init__(self, target: Target, requests: Sequence[bytes], images_per_request: int, connections: int) -> None:
        self._target, self._requests, self._limit = target, requests, connections
        self.outcome = Outcome(images_per_request)
        self._connections: set[Connection] = set()
        self._began: dict[Connection, float] = {}
        self._sent = 0
        self._last = 0.0  # when a request was answered
        self._next: Callable[[Connection], None] = _rest
        self._free: deque[Connection] = deque()
        self._due: deque[float] = deque()
        self._running = False
        self._over = asyncio.Event()

    async def closed(self, seconds: float, progress: Progress, over: asyncio.Event | None = None) -> Outcome:
        """Every connection always has a request under way, until `seconds` have passed or `over` is set.

        In either loop it is over at once when the first answers say that this client has no right to any.
        """
        self._next = lambda connection: self._send(connection, time.perf_counter())
        await self._open()
        self._over = over or self._over
        return await self._run(
            seconds, progress, start=lambda: [self._next(c) for c in list(self._connections) if c.usable]
        )

    async def open(self, seconds: float, rate: float, progress: Progress) -> Outcome:
        """Requests arrive as a Poisson process of `rate` per second, on whichever connection is free.

        Chance is the same in every run.
        """
        self._next = self._send_what_is_due
        await self._open()
        arrivals = asyncio.create_task(self._arrive(seconds, rate, random.Random(0)))
        try:
            return await self._run(seconds, progress, start=lambda: self._free.extend(self._connections))
        finally:
            arrivals.cancel()

    async def _arrive(self, seconds: float, rate: float, chance: random.Random) -> None:
        """Put every request in line at the moment that it is due."""
        now = due = time.perf_counter()
        end = now + seconds
        while (due := due + chance.expovariate(rate)) < end:
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            if not self._running:
                return
            self._due.append(due)
            while self._free and self._due:
                if (connection := self._free.popleft()).usable:
                    self._send_what_is_due(connection)

    def _send_what_is_due(self, connection: Connection) -> None:
        if self._due:
            self._send(connection, self._due.popleft())
        else:
            self._free.append(connection)

    def _send(self, connection: Connection, began: float) -> None:
        self._began[connection] = began
        connection.send(self._requests[self._sent % len(self._requests)])
        self._sent += 1

    def _answered(self, connection: Connection, status: int) -> None:
        began = self._began.pop(connection)
        self._last = time.perf_counter()
        self.outcome.statuses[status] += 1
        if status:
            latencies = self.outcome.latencies_s if status == 200 else self.outcome.refusals_s
            latencies.append(self._last - began)
        if self.outcome.shut_out:
            self._next = _rest
            self._over.set()
        if connection.usable:
            self._next(connection)
        else:
            self._replace(connection)

    def _replace(self, connection: Connection) -> None:
        """Make another in the place of one that the server closed; it may say so twice."""
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        with suppress(ValueError):  # it was not waiting
            self._free.remove(connection)
        if self._running:  # else `_run` sees to it at the start, or it is over
            asyncio.get_running_loop().create_task(self._reconnect())

    async def _reconnect(self) -> None:
        """Take the place of a connection that the server closed."""
        while self._running:
            try:
                connection = await self._connect()
            except OSError:
                await asyncio.sleep(RECONNECT_S)
                continue
            if self._running:
                self._next(connection)
            else:
                connection.close()
            return

    async def _connect(self) -> Connection:
        """A new connection; raises `OSError` where none can be had."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(self._answered, self._replace), self._target.host, self._target.port
        )
        if not connection.usable:
            raise ConnectionResetError
        self._connections.add(connection)
        return connection

    async def _open(self) -> None:
        try:
            for _ in range(self._limit):
                await self._connect()
        except OSError as exc:
            for connection in self._connections:
                connection.close()
            if exc.errno in NO_ROOM:
                raise Unreachable(
                    f"This machine allows no more than {len(self._connections)} connections here ({exc.strerror}); ask "
                    "for fewer with --connections, or allow more files with: ulimit -n"
                ) from exc
            raise Unreachable(
                f"Nothing answers at {self._target.host} port {self._target.port}; start it with: convoy serve"
            ) from exc

    async def _run(self, seconds: float, progress: Progress, start: Callable[[], object]) -> Outcome:
        began, cpu = time.perf_counter(), time.process_time()
        self._running = True
        start()
        for _ in range(self._limit - len(self._connections)):  # those that the server has closed since
            asyncio.get_running_loop().create_task(self._reconnect())
        while (left := began + seconds - time.perf_counter()) > 0 and not self._over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), min(left, 0.5))
            self.outcome.seconds = time.perf_counter() - began
            progress(self.outcome)
        self._next = _rest
        self._running = False
        while self._began and time.perf_counter() < began + seconds + DRAIN_S:
            await asyncio.sleep(0.01)
        self.outcome.seconds = max(self.outcome.seconds, self._last - began)  # answers after the end took their time
        self.outcome.late = len(self._due)
        if self._began:
            self.outcome.statuses[0] += len(self._began)
        self.outcome.client_cpu_s = time.process_time() - cpu
        for connection in self._connections:
            connection.close()
        return self.outcome


def _rest(_connection: Connection) -> None:
    """Send nothing more."""
