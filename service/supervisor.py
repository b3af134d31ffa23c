"""One parent that listens and N whole copies of the service; each new connection goes to the copy that has the fewest.

With a shared listening socket whoever wakes first takes the connection, and a few of them often end up in one process
while another core idles. Here the parent accepts and hands the connection itself over (SCM_RIGHTS), once per
connection: no request passes through it. A copy that dies is replaced; what it counted stays counted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable

from service.counters import STRIP_BYTES
from service.listening import SILENCE_S, last_connections

CONNECTION, LAME_DUCK, RELOAD = b"c", b"l", b"m"  # to a worker: a connection; be unready, but answer; new models
SILENCE, SPREAD = b"s", b"a"  # to a worker: answer nobody for a moment; all have the models that it wanted them to
READY, TAKEN, CLOSED = map(ord, "rtc")  # from a worker: it answers; has a connection; which ended
RELOADED, CHANGED = map(ord, "ma")  # from a worker: it has the new models; there are some, and all are to have them
RESTART_DELAYS_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)  # for workers that die soon after their start, again and again
SOON_S = 60.0
REASON_S = 10.0  # how long the first worker may take to say why none can start, once another knows
logger = logging.getLogger(__name__)


class Worker:
    """A running copy and the parent's end of the channel to it."""

    def __init__(self, process: asyncio.subprocess.Process, channel: socket.socket, started: float) -> None:
        self.process, self.channel, self.started = process, channel, started
        self.ready, self.connections = False, 0
        self.given: deque[socket.socket] = deque()  # connections that it has not said it has
        self.reloaded = asyncio.Event()  # or gone: nobody need wait for it

    def give(self, connection: socket.socket) -> bool:
        """Hand over a connection; False when the worker does not take any now."""
        try:
            socket.send_fds(self.channel, [CONNECTION], [connection.fileno()])
        except OSError:  # its end is full or gone
            return False
        self.given.append(connection)
        self.connections += 1
        return True

    def took(self, count: int) -> None:
        """It has so many more of its connections: nothing can be lost of them that was not its to lose."""
        for _ in range(count):
            self.given.popleft().close()

    def tell(self, message: bytes) -> None:
        """Send a message without a connection; a worker that is gone needs none."""
        try:
            self.channel.send(message)
        except OSError:
            logger.debug("a worker does not listen any more")


class Supervisor:
    """Keeps `count` workers, told their `settings` as JSON, behind one listening socket until SIGTERM or SIGINT."""

    def __init__(
        self,
        listener: socket.socket,
        settings: bytes,
        *,
        count: int,
        lame_duck_s: float,
        drain_timeout_s: float,
        announce: Callable[[], None],
    ) -> None:
        self._listener, self._settings, self._count = listener, settings, count
        self._lame_duck_s, self._drain_timeout_s, self._announce = lame_duck_s, drain_timeout_s, announce
        self._workers: list[Worker] = []
        self._keepers: list[asyncio.Task[None]] = []  # of each worker in turn
        self._homeless: deque[socket.socket] = deque()  # connections that no worker has
        self._turn = 0
        self._announced = self._failed = False
        self._stop, self._reload_asked = asyncio.Event(), asyncio.Event()
        self._changers: list[Worker] = []  # that wait until all have what they changed
        self._counters = os.memfd_create("convoy-counters")  # no file: the root file system may be read-only
        os.ftruncate(self._counters, count * STRIP_BYTES)

    async def run(self) -> int:
        """Serve until told to stop; the exit status: 1 when no worker ever became ready."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_asked.set)
        reloader = asyncio.create_task(self._reload())
        self._keepers += [asyncio.create_task(self._keep(strip)) for strip in range(self._count)]
        await self._stop.wait()
        reloader.cancel()
        for worker in self._workers:
            worker.tell(LAME_DUCK)
        if not self._failed:
            await asyncio.sleep(self._lame_duck_s)
            for worker in self._workers:
                worker.tell(SILENCE)
            await asyncio.sleep(SILENCE_S / 2)  # they may hear it a little later
        loop.remove_reader(self._listener)
        last = last_connections(self._listener)  # who has connected already is answered too
        self._listener.close()
        for connection in last:
            self._place(connection)
        for worker in self._workers:
            worker.process.terminate()
        _, late = await asyncio.wait(self._keepers, timeout=self._drain_timeout_s + 5)
        for worker in self._workers if late else ():
            logger.error("worker %d did not stop in time and is killed", worker.process.pid)
            worker.process.kill()
        os.close(self._counters)
        return int(self._failed)

    async def _keep(self, strip: int) -> None:
        """One worker after the other, until the end."""
        deaths = 0
        while not self._stop.is_set():
            worker = await self._start(strip)
            status = await worker.process.wait()
            lived = asyncio.get_running_loop().time() - worker.started
            self._forget(worker)
            if self._stop.is_set():
                return
            if not self._announced:  # the first ones can't start, nor would any other
                self._failed = True
                if strip:
                    await asyncio.wait(self._keepers[:1], timeout=REASON_S)  # it is the first that says why
                self._stop.set()
                return
            deaths = deaths + 1 if lived < SOON_S else 0
            delay = RESTART_DELAYS_S[min(deaths, len(RESTART_DELAYS_S) - 1)]
            logger.error("worker %d ended with status %d; another starts in %.0f s", worker.process.pid, status, delay)
            await asyncio.wait([asyncio.create_task(self._stop.wait())], timeout=delay)

    async def _reload(self) -> None:
        """New models for one worker after the other: loading them takes a core, and the others keep theirs."""
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            changers, self._changers = self._changers, []
            for worker in list(self._workers):
                worker.reloaded.clear()
                worker.tell(RELOAD)
                await worker.reloaded.wait()
            for worker in changers:
                worker.tell(SPREAD)

    async def _start(self, strip: int) -> Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            numbers = [theirs.fileno(), self._counters]
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "service.worker", *map(str, numbers), str(strip),
                stdin=asyncio.subprocess.PIPE, pass_fds=numbers, start_new_session=True,
            )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(self._settings)
        process.stdin.close()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        worker = Worker(process, ours, loop.time())
        self._workers.append(worker)
        loop.add_reader(ours, self._hear, worker)
        return worker

    def _forget(self, worker: Worker) -> None:
        asyncio.get_running_loop().remove_reader(worker.channel)
        worker.channel.close()
        worker.reloaded.set()
        self._workers.remove(worker)
        self._homeless.extend(worker.given)
        self._listen_or_wait()

    def _hear(self, worker: Worker) -> None:
        """Take in what a worker says: it is ready, or some of its connections have ended."""
        try:
            said = worker.channel.recv(4096)
        except OSError:
            said = b""
        if not said:  # it has ended, or will: `_keep` hears of that
            worker.ready = False
            asyncio.get_running_loop().remove_reader(worker.channel)
        worker.took(said.count(TAKEN))
        worker.connections -= said.count(CLOSED)
        worker.ready = worker.ready or READY in said
        if RELOADED in said:
            worker.reloaded.set()
        if CHANGED in said:
            self._changers += [worker] * said.count(CHANGED)
            self._reload_asked.set()
        self._listen_or_wait()
        if self._announced or self._stop.is_set():  # whoever becomes ready now has come too late
            return
        if len(self._workers) == self._count and all(worker.ready for worker in self._workers):
            self._announced = True
            self._announce()

    def _listen_or_wait(self) -> None:
        """Accept while a worker is ready; otherwise connections wait where the kernel keeps them."""
        if self._listener.fileno() < 0:
            return
        loop = asyncio.get_running_loop()
        if not any(worker.ready for worker in self._workers):
            loop.remove_reader(self._listener)
            return
        for _ in range(len(self._homeless)):
            self._place(self._homeless.popleft())
        loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        """Take a connection, if there is one."""
        try:
            connection, _ = self._listener.accept()
        except OSError:  # gone again, or no descriptor is free: the next turn tries again
            return
        self._place(connection)

    def _place(self, connection: socket.socket) -> None:
        """Give a connection to a worker, or keep it until one takes it."""
        self._turn += 1
        count = len(self._workers)
        for _, worker in sorted(  # among equals each in its turn
            enumerate(self._workers), key=lambda entry: (entry[1].connections, (entry[0] - self._turn) % count)
        ):
            if worker.ready and worker.give(connection):
                return
        self._homeless.append(connection)
