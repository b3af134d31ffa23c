"""One parent and N whole copies of the service: it starts them, passes on what signals ask for, and ends them.

A copy that dies is replaced: what it counted stays counted, and connections that it has not taken yet go to others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from service.accepting import Acceptor, Worker
from service.channel import Channel, Message
from service.counters import STRIP_BYTES
from service.listening import SILENCE_S

RESTART_DELAYS_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)  # for workers that die soon after their start, again and again
SOON_S = 60.0
REASON_S = 10.0  # how long the first worker may take to say why none can start, once another knows
logger = logging.getLogger(__name__)


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
        self._settings, self._count = settings, count
        self._lame_duck_s, self._drain_timeout_s, self._announce = lame_duck_s, drain_timeout_s, announce
        self._workers: list[Worker] = []
        self._acceptor = Acceptor(listener, self._workers)
        self._keepers: list[asyncio.Task[None]] = []  # of each worker in turn
        self._announced = self._failed = False
        self._stop, self._reload_asked = asyncio.Event(), asyncio.Event()
        self._hurried = asyncio.Event()  # by SIGINT: nobody's balancer has to notice
        self._changers: list[Worker] = []  # that wait until all have what they changed
        self._counters = os.memfd_create("convoy-counters")  # no file: the root file system may be read-only
        os.ftruncate(self._counters, count * STRIP_BYTES)

    async def run(self) -> int:
        """Serve until told to stop; the exit status: 1 when no worker ever became ready."""
        loop = asyncio.get_running_loop()
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
        self._acceptor.close()
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
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay)

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
        ended = f"worker {worker.process.pid} ended with status {status}"
        if status == -signal.SIGKILL and not (self._announced or self._stop.is_set()):  # it could not say so itself
            logger.error("%s before it could serve: it was killed, as happens where memory runs out", ended)
        return ended

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
                tells = strip == 0 or self._announced  # what keeps it from starting; of the first ones, one does
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "service.worker", *map(str, (*numbers, strip, int(tells))),
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
        self._acceptor.accept_or_wait()

    def _forget(self, worker: Worker) -> None:
        worker.channel.close()
        worker.reloaded.set()
        self._workers.remove(worker)
        self._acceptor.take_back(worker)
        self._acceptor.accept_or_wait()

    def _hear(self, worker: Worker, message: Message, _connection: socket.socket | None) -> None:
        match message:
            case Message.READY:
                worker.ready = True
                if self._announced:  # one takes another's place: it has what the repository holds now, so must all
                    self._reload_asked.set()
            case Message.TAKEN:  # nothing can be lost of it any more that was not the worker's to lose
                worker.given.popleft().close()
            case Message.CLOSED:
                worker.connections -= 1
            case Message.RELOADED:
                worker.reloaded.set()
            case Message.CHANGED:
                self._changers.append(worker)
                self._reload_asked.set()
        self._acceptor.accept_or_wait()
        if self._announced or self._stop.is_set():  # whoever becomes ready now has come too late
            return
        if len(self._workers) == self._count and all(worker.ready for worker in self._workers):
            self._announced = True
            self._announce()
