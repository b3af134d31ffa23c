"""A request to a direct route and its reply: what uvicorn's `RequestResponseCycle` is to the others."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.direct import DirectRoute, Header
from service.api.incoming import Connection, Incoming, Reply
from service.errors import DeadlineExceeded
from service.serving import ServedModels


class Exchange:
    """One request on its connection, and the reply to it."""

    message_event = asyncio.Event()  # uvicorn sets it when the connection ends; nobody waits for it here
    response_started = False  # before it is complete

    def __init__(
        self,
        protocol: HttpToolsProtocol,
        connection: Connection,
        models: ServedModels,
        route: DirectRoute,
        path: str,
        headers: dict[bytes, bytes],
        query: bytes = b"",
    ) -> None:
        self._protocol, self._connection, self._models, self.route = protocol, connection, models, route
        self._path, self._headers, self._query = path, headers, query
        self._began = time.perf_counter()
        self._pieces: list[bytes] = []
        self._more: asyncio.Event | None = None  # for a route that reads the body as it comes: there is more of it
        self._is_whole = False
        self.keep_alive = True  # uvicorn takes it back when it stops
        self.disconnected = self.response_complete = False

    def feed(self, piece: bytes) -> None:
        """More of the body is there."""
        self._pieces.append(piece)
        if self._more:
            self._more.set()

    def finish(self) -> bool:
        """All of the body is there; whether nobody has begun to read it."""
        self._is_whole = True
        if self._more:
            self._more.set()
        return self._more is None

    def request(self) -> Incoming:
        """What has arrived, once all of it has."""
        return Incoming(self._path, self._headers, self._query, self._taken(), self._connection, self._began)

    def slow_request(self) -> Incoming:
        """What has arrived and what will: its route reads it as it comes, no longer than what comes through ASGI."""
        self._more = asyncio.Event()
        self._more.set()
        return Incoming(self._path, self._headers, self._query, self._receive, self._connection, self._began)

    @property
    def is_waited_for(self) -> bool:
        """Whether its route waits for the rest."""
        return self._more is not None and not self._is_whole

    def _taken(self) -> bytes:
        """What has come of the body since the last time; it is kept here no longer, since the exchange is."""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _receive(self) -> dict[str, Any]:
        """What has come of the body since the last one, as ASGI's message."""
        assert self._more
        await self._more.wait()
        self._more.clear()
        return {"type": "http.request", "body": self._taken(), "more_body": not self._is_whole}

    async def run(self, request: Incoming) -> None:
        """Have the request answered; without an answer the connection ends."""
        try:
            await self.route.handle(request, self._answer)
        finally:
            if not self.response_complete:
                self._protocol.transport.close()

    async def _answer(self, reply: Reply, request_id: Header) -> None:
        if self.is_waited_for and reply.status == DeadlineExceeded.status:
            self.keep_alive = False  # other rests are read: who still sends would else not see the answer
        self.send(reply, request_id)

    def send(self, reply: Reply, request_id: Header) -> None:
        """Head and body in one write: two would be two packets."""
        protocol = self._protocol
        if self.disconnected:
            return
        self.keep_alive = self.keep_alive and not self._models.draining  # the next request is for another instance
        lines = [STATUS_LINE[reply.status], b"content-type: ", reply.media_type]
        for name, value in (*protocol.server_state.default_headers, request_id, *reply.headers):
            lines += (b"\r\n", name, b": ", value)
        if not self.keep_alive:
            lines.append(b"\r\nconnection: close")
        lines.append(b"\r\ncontent-length: %d\r\n\r\n" % len(reply.body))
        lines.append(reply.body)
        protocol.transport.write(b"".join(lines))
        self.response_complete = True
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()
