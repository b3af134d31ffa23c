"""Connections → workers: each new one is handed to the copy of the service that has the fewest.

With a shared listening socket whoever wakes first takes the connection, and a few of them often end up in one process
while another core idles. Here the parent accepts and hands the connection itself over (SCM_RIGHTS), once per
connection: no request passes through it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from service.channel import Channel, Message
from service.listening import last_connections

NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
FULL_S = 1.0  # until a process without a free descriptor accepts connections again
logger = logging.getLogger(__name__)


class Worker:
    """A running copy, the parent's end of the channel to it, and the connections that it was given."""

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


class Acceptor:
    """Accepts connections for `workers`, which come and go; call it within one event loop."""

    def __init__(self, listener: socket.socket, workers: Sequence[Worker]) -> None:
        listener.setblocking(False)
        self._listener, self._workers = listener, workers
        self._homeless: deque[socket.socket] = deque()  # connections that no worker has
        self._turn = 0

    def accept_or_wait(self) -> None:
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

    def take_back(self, worker: Worker) -> None:
        """Give others, as soon as one is ready, what a worker that has ended did not take."""
        self._homeless.extend(worker.given)

    def close(self) -> None:
        """Accept no more; who has connected already is answered too."""
        asyncio.get_running_loop().remove_reader(self._listener)
        last = last_connections(self._listener)
        self._listener.close()
        for connection in last:
            self._place(connection)

    def _accept(self) -> None:
        """Take a connection, if there is one."""
        try:
            connection, _ = self._listener.accept()
        except OSError as exc:
            if exc.errno in NO_ROOM:
                logger.error("no more connections can be accepted: %s", exc.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener)  # it would ring again at once, and again
                loop.call_later(FULL_S, self.accept_or_wait)
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
