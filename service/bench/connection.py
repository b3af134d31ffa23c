"""One keep-alive HTTP/1.1 connection: a prebuilt request goes out, a status comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from httptools import HttpResponseParser

Answered = Callable[["Connection", int], None]  # the status; 0 when the connection ended without an answer
Ended = Callable[["Connection"], None]


class Connection(asyncio.Protocol):
    """Sends one request at a time and says when it was answered, or that it has ended while it had none to answer."""

    def __init__(self, answered: Answered, ended: Ended) -> None:
        self._answered, self._ended = answered, ended
        self._transport: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self.busy = False

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes) -> None:
        """Send a whole request; its answer is `answered`."""
        assert self._transport is not None
        assert not self.busy
        self.busy = True
        self._transport.write(request)

    def close(self) -> None:
        """End the connection; what is under way is not answered any more."""
        self.busy = False
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio's protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio's protocol."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        """Part of asyncio's protocol."""
        self._transport = None
        if self.busy:
            self.busy = False
            self._answered(self, 0)
        else:
            self._ended(self)

    def on_message_complete(self) -> None:
        """The parser has seen the end of an answer."""
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        self.busy = False
        self._answered(self, status)
