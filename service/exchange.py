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
        models: ServedModels,
        route: DirectRoute,
        path: str,
        headers: dict[bytes, bytes],
        query: bytes = b"",
    ) -> None:
        self._protocol, self._models, self.route = protocol, models, route
        self._path, self._headers, self._query = path, headers, query
        self._began = time.perf_counter()
        self.pieces: list[bytes] = []
        self.more: asyncio.Event | None = None  # for a route that reads the body as it comes: there is more of it
        self.is_whole = False  # that body; of others nobody asks
        self.keep_alive = True  # uvicorn takes it back when it stops
        self.disconnected = self.response_complete = False

    def request(self, connection: Connection) -> Incoming:
        """What has arrived, once all of it has."""
        return Incoming(self._path, self._headers, self._query, self._body(), connection, self._began)

    def slow_request(self, connection: Connection) -> Incoming:
        """What has arrived and what will: its route reads it as it comes, no longer than what comes through ASGI."""
        self.more = asyncio.Event()
        self.more.set()
        return Incoming(self._path, self._headers, self._query, self._receive, connection, self._began)

    @property
    def is_waited_for(self) -> bool:
        """Whether its route waits for the rest."""
        return self.more is not None and not self.is_whole

    def _body(self) -> bytes:
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)

    async def _receive(self) -> dict[str, Any]:
        """What has come of the body since the last one, as ASGI's message."""
        assert self.more
        await self.more.wait()
        self.more.clear()
        body, self.pieces = self._body(), []
        return {"type": "http.request", "body": body, "more_body": not self.is_whole}

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
