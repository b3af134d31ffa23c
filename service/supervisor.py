"""One parent that listens and N whole copies of the service; each new connection goes to the copy that has the fewest.

With a shared listening socket whoever wakes first takes the connection, and a few of them often end up in one process
while another core idles. Here the parent accepts and hands the connection itself over (SCM_RIGHTS), once per
connection: no request passes through it. A copy that dies is replaced; what it counted stays counted.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from service.channel import Channel, Message
from service.counters import STRIP_BYTES
from service.listening import SILENCE_S, last_connections

RESTART_DELAYS_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)  # for workers that die soon after their start, again and again
SOON_S = 60.0
NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
FULL_S = 1.0  # until a process without a free descriptor accepts connections again
REASON_S = 10.0  # how long the first worker may take to say why none can start, once another knows
logger = logging.getLogger(__name__)


class Worker:
    """A running copy and the parent's end of the channel to it."""

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self.process, self.channel = process, channel
        self.ready, self.connections = False, 0
        self.given: deque[socket.socket] = deque()  # connections that it has not said it has
        self.reloaded = asyncio.Event()  # or gone: nobody need wait for it

    def give(self, connection: socket.socket) -> bool:
        """Hand over a connection; False when the worker does not take any now."""
        if not self.channel.hand_over(connection):
            return False
        self.given.append(connection)
        self.connections += 1
        return True

    def stop(self) -> None:
        """Let it finish what runs; SIGTERM, of which no other takes notice, ends one that still loads its models."""
        self.channel.send(Message.STOP)
        if not self.ready:
            self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Send it, unless the process has ended, of which its keeper may not have heard yet."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)


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
        self._hurried = asyncio.Event()  # by SIGINT: nobody's balancer has to notice
        self._changers: list[Worker] = []  # that wait until all have what they changed
        self._counters = os.memfd_create("convoy-counters")  # no file: the root file system may be read-only
        os.ftruncate(self._counters, count * STRIP_BYTES)

    async def run(self) -> int:
        """Serve until told to stop; the exit status: 1 when no worker ever became ready."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        loop.add_signal_handler(signal.SIGHUP, self._reload_asked.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
        reloader = asyncio.create_task(self._reload())
        self._keepers += [asyncio.create_task(self._keep(strip)) for strip in range(self._count)]
        await self._stop.wait()
        reloader.cancel()
        for worker in self._workers:
            worker.channel.send(Message.LAME_DUCK)
        if not self._failed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurried.wait(), self._lame_duck_s)
            for worker in self._workers:
                worker.channel.send(Message.SILENCE)
            await asyncio.sleep(SILENCE_S / 2)  # they may hear it a little later
        loop.remove_reader(self._listener)
        last = last_connections(self._listener)  # who has connected already is answered too
        self._listener.close()
        for connection in last:
            self._place(connection)
        for worker in self._workers:
            worker.stop()
        _, late = await asyncio.wait(self._keepers, timeout=self._drain_timeout_s + 5)
        for worker in self._workers if late else ():
            logger.error("worker %d did not stop in time and is killed", worker.process.pid)
            worker.signal(signal.SIGKILL)
        os.close(self._counters)
        return int(self._failed)

    def _interrupted(self) -> None:
        if self._hurried.is_set():  # twice: nobody wants to wait for what runs
            for worker in self._workers:
                worker.channel.send(Message.ABANDON)
        self._hurried.set()
        self._stop.set()

    async def _keep(self, strip: int) -> None:
        """One worker after the other, until the end."""
        deaths, loop = 0, asyncio.get_running_loop()
        while not self._stop.is_set():
            began = loop.time()
            ended = await self._live(strip)
            if self._stop.is_set():
                return
            if not self._announced:  # the first ones can't start, nor would any other
                self._failed = True
                if strip:
                    await asyncio.wait(self._keepers[:1], timeout=REASON_S)  # it is the first that says why
                self._stop.set()
                return
            deaths = deaths + 1 if loop.time() - began < SOON_S else 0
            delay = RESTART_DELAYS_S[min(deaths, len(RESTART_DELAYS_S) - 1)]
            logger.error("%s; another starts in %.0f s", ended, delay)
            await asyncio.wait([asyncio.create_task(self._stop.wait())], timeout=delay)

    async def _live(self, strip: int) -> str:
        """A worker from its start to its end; what became of it."""
        try:
            worker = await self._start(strip)
        except (OSError, RuntimeError) as exc:  # no descriptor, process, memory or thread (RuntimeError) to be had
            ended = f"a worker can't be started: {exc}"
            if not self._announced:  # a worker says for itself what keeps it from serving; here there is none
                logger.error(ended)
            return ended
        status = await worker.process.wait()
        self._forget(worker)
        return f"worker {worker.process.pid} ended with status {status}"

    async def _reload(self) -> None:
        """New models for one worker after the other: loading them takes a core, and the others keep theirs."""
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            changers, self._changers = self._changers, []
            for worker in list(self._workers):
                if not worker.channel.closed:  # else it has ended meanwhile, and who takes its place looks by itself
                    worker.reloaded.clear()
                    worker.channel.send(Message.RELOAD)
                    await worker.reloaded.wait()
            for worker in changers:
                worker.channel.send(Message.SPREAD)

    async def _start(self, strip: int) -> Worker:
        """A worker that begins to load its models; raises `OSError` or `RuntimeError` where the machine is full."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                numbers = [theirs.fileno(), self._counters]
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "service.worker", *map(str, numbers), str(strip),
                    stdin=asyncio.subprocess.PIPE, pass_fds=numbers, start_new_session=True,
                )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        assert process.stdin is not None
        process.stdin.write(self._settings)
        process.stdin.close()
        worker = Worker(process, Channel(ours))
        self._workers.append(worker)
        worker.channel.open(partial(self._hear, worker), partial(self._lose, worker))
        return worker

    def _lose(self, worker: Worker) -> None:
        """It has ended, or will: `_keep` hears of that."""
        worker.ready = False
        worker.reloaded.set()
        self._listen_or_wait()

    def _forget(self, worker: Worker) -> None:
        worker.channel.close()
        worker.reloaded.set()
        self._workers.remove(worker)
        self._homeless.extend(worker.given)
        self._listen_or_wait()

    def _hear(self, worker: Worker, message: Message, _connection: socket.socket | None) -> None:
        match message:
            case Message.READY:
                worker.ready = True
            case Message.TAKEN:  # nothing can be lost of it any more that was not the worker's to lose
                worker.given.popleft().close()
            case Message.CLOSED:
                worker.connections -= 1
            case Message.RELOADED:
                worker.reloaded.set()
            case Message.CHANGED:
                self._changers.append(worker)
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
        except OSError as exc:
            if exc.errno in NO_ROOM:
                logger.error("no more connections can be accepted: %s", exc.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener)  # it would ring again at once, and again
                loop.call_later(FULL_S, self._listen_or_wait)
            return  # otherwise it has gone again
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
