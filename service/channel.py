"""The socket pair between the supervisor and a worker: messages of one byte, some with a connection; none is lost.

The kernel holds a few hundred of them. More are kept here until the other end has room: only an end that is gone
is silent, which each side is told once.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from enum import IntEnum

MOST_BYTES, MOST_DESCRIPTORS = 4096, 16  # that one look takes


class Message(IntEnum):
    """What one says to the other."""

    # to a worker
    CONNECTION = ord("c")  # the connection comes with it
    LAME_DUCK = ord("l")  # be unready, but answer
    RELOAD = ord("m")  # there are new models
    SILENCE = ord("s")  # answer nobody for a moment
    SPREAD = ord("a")  # all have the models that it wanted them to
    STOP = ord("f")  # finish what runs, and end
    ABANDON = ord("x")  # end without finishing it
    # from a worker
    READY = ord("r")  # it answers
    TAKEN = ord("t")  # it has the next of the connections that it was sent
    CLOSED = ord("e")  # a connection has ended
    RELOADED = ord("n")  # it has the new models
    CHANGED = ord("w")  # there are some, and all are to have them


class Channel:
    """One end. What it does happens on the event loop that called `open`."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._unsent: deque[Message] = deque()
        self._heard: Callable[[Message, socket.socket | None], None]
        self._gone: Callable[[], None]
        self.closed = False

    def open(self, heard: Callable[[Message, socket.socket | None], None], gone: Callable[[], None]) -> None:
        """Call `heard` with each message and the connection that came with it, `gone` when the other end has ended.

        A connection is None where this process had no descriptor left for it.
        """
        self._heard, self._gone = heard, gone
        asyncio.get_running_loop().add_reader(self._end, self._read)

    def send(self, message: Message) -> None:
        """Say something, as soon as the other end has room for it; nothing to one that is gone."""
        if self.closed:
            return
        self._unsent.append(message)
        if len(self._unsent) == 1:
            self._write()

    def hand_over(self, connection: socket.socket) -> bool:
        """Send a connection; False when the other end has no room for it now, or is gone."""
        if self.closed or self._unsent:
            return False
        try:
            socket.send_fds(self._end, [bytes([Message.CONNECTION])], [connection.fileno()])
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Neither hear nor say anything from now on."""
        if not self.closed:
            self.closed = True
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._end)
            loop.remove_writer(self._end)
            self._end.close()

    def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            sent = self._end.send(bytes(self._unsent))
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose()
            return
        for _ in range(sent):
            self._unsent.popleft()
        if self._unsent:
            loop.add_writer(self._end, self._write)
        else:
            loop.remove_writer(self._end)

    def _read(self) -> None:
        try:
            said, descriptors, _, _ = socket.recv_fds(self._end, MOST_BYTES, MOST_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            said, descriptors = b"", []
        if not said:
            self._lose()
            return
        connections = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        for byte in said:
            message = Message(byte)
            self._heard(message, connections.pop(0) if message is Message.CONNECTION and connections else None)

    def _lose(self) -> None:
        if not self.closed:
            self.close()
            self._gone()
