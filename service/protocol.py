"""One HTTP/1.1 connection: uvicorn's protocol, with the hot routes past ASGI, and refusals before anything is parsed.

While requests are refused because there are too many of them, one that arrives in one piece and is plain is refused by
its head alone: what a refusal costs is missing for those that are answered.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.api.direct import DirectRoute, DirectRoutes
from service.api.incoming import CONNECTION_EXTENSION, Connection, Incoming, joined
from service.api.request_log import CUT_OFF
from service.errors import MalformedRequest, ServiceError
from service.exchange import Exchange
from service.heads import PlainHead, without_upgrade
from service.serving import ServedModels

HEAD_S = 0.5  # how long a stopping process waits for a connection's first head, or for one that has begun
DIRECT_BYTES = 1 << 20  # larger bodies are worth being read with ASGI's care, piece by piece
SLOW_S = 0.1  # after which a body that goes direct is waited for by its route, which knows how long it may
HEAD_BYTES = 64 << 10  # how much of a head, or of what is no body, may arrive beyond its first piece
MOST_FIELDS = 256  # of a head: each costs, and nobody needs so many
HEAD_TOO_LONG = f"The head is too long, or has more than {MOST_FIELDS} fields; put what is large into the body."
UNREAD_FOR: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux has it
NO_REQUEST = "It is no HTTP/1.1 request; send a request line, a line per field, one Host, and a plain or chunked body."


class Protocol(HttpToolsProtocol):
    """uvicorn's, with the hot routes past ASGI, and word of a connection's end for those that work for it.

    A request goes past ASGI when nothing about it needs more than its whole body and one reply: it is not large, no
    other one is being answered on its connection, and the client reads what it is sent.
    """

    def __init__(self, *arguments: object, closed: Callable[[], None] | None = None, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]  # passed on as they come
        self._connection, self._closed = Connection(), closed  # whose client is known once it is made
        self._routes: DirectRoutes = self.app.direct
        self._hottest = self._routes.hottest
        self._path = self._hottest.path.encode()
        self._models: ServedModels = self.app.state.served
        self._direct: Exchange | None = None  # the exchange whose request arrives
        self._plain = PlainHead(self._hottest.method, self._hottest.path)
        self._arriving = False  # between the beginning of a request and its end
        self._in_head = False  # and that of its head
        self._deaf = False  # whatever comes is not listened to any more
        self._more_bytes = 0  # that have arrived since its first piece, or since the last one of its body
        self._unanswered = deque[RequestResponseCycle]()  # of ASGI's requests, and perhaps some that are answered
        self._quiet_since = 0.0  # when something happened last that gives the client time, on the loop's clock

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """A client has connected."""
        super().connection_made(transport)
        self._connection.address = self.client[0] if self.client else ""
        self._quiet_since = self.loop.time()
        if UNREAD_FOR is not None:  # the system ends a connection whose client takes nothing for so long (RFC 5482)
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.IPPROTO_TCP, UNREAD_FOR, self.timeout_keep_alive * 1000)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Bytes are there."""
        if self._deaf:
            return
        if self._hottest.refusing and self._refused(data):
            return
        if self._arriving:
            self._more_bytes += len(data)
        try:
            self.parser.feed_data(data if self._arriving else without_upgrade(data))
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        except httptools.HttpParserError:
            self.send_400_response(HEAD_TOO_LONG if self._in_head and len(self.headers) == MOST_FIELDS else NO_REQUEST)
        if self._more_bytes > HEAD_BYTES:
            self.send_400_response(HEAD_TOO_LONG)
        if self._arriving and self._unwaited:
            self._look_soon()

    def _refused(self, data: bytes) -> bool:
        """Refuse a request that is whole and plain by its head, if there is no time for it."""
        if self._arriving or not self._free or (headers := self._plain.fields(data)) is None:
            return False
        exchange = Exchange(self, self._connection, self._models, self._hottest, self._hottest.path, headers)
        if refused := self._hottest.refuse(exchange.request()):
            self.cycle = exchange  # type: ignore[assignment]  # it has what uvicorn asks of one
            exchange.send(*refused)
        return refused is not None

    def _unsupported_upgrade_warning(self) -> None:
        """A wish for another protocol that was not seen in time: what follows is in nobody's protocol any more."""
        self._arriving, self._in_head = True, False  # the parser has taken it for whole
        self.send_400_response("This service speaks HTTP/1.1 alone; send the request without an Upgrade field.")

    def send_400_response(self, msg: str) -> None:
        """What came can't be understood, nor what may follow it: say so once every request before it has its answer."""
        in_body = self._arriving and not self._in_head
        if self.cycle and not self.cycle.response_complete and not in_body:
            self.cycle.keep_alive, self._deaf = False, True  # to stop reading would reset the connection at its end
            return
        if self.transport.is_closing():
            return
        if in_body and self.pipeline:  # its turn comes after theirs
            self.cycle.keep_alive, self._deaf = False, True
            self.pipeline[0] = (self.cycle, self._routes.saying_malformed(msg))  # type: ignore[assignment]  # Starlette's
            return
        if in_body:
            self.cycle.disconnected = True
            if self.cycle.response_started:  # nothing more can be said
                self.transport.close()
                return
        self._end_with(MalformedRequest(msg))

    def _end_with(self, error: ServiceError) -> None:
        """Say it in answer to what is no whole request, and nothing more."""
        path = self.url.partition(b"?")[0].decode("ascii", "backslashreplace")
        exchange = Exchange(self, self._connection, self._models, self._hottest, path, {})
        exchange.keep_alive = False
        method = self.parser.get_method().decode() if path else ""  # not known before there is one
        exchange.send(*self._routes.no_request(error, method, path))

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._arriving = self._in_head = True
        self._more_bytes, self._quiet_since = 0, self.loop.time()
        self._direct = None
        self.scope["extensions"] = {CONNECTION_EXTENSION: self._connection}  # type: ignore[dict-item]  # typed as JSON; it stays in here

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field without the blanks around its value (RFC 9110, 5.5); behind a body it means nothing (6.5.1)."""
        if not self._in_head:
            return
        if len(self.headers) == MOST_FIELDS:
            raise ValueError  # the parser takes it for damage
        super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        """The head is there."""
        path, _, query = self.url.partition(b"?")
        headers = joined(self.headers)
        if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise ValueError  # as above: it would let a compressed body pass as if it were plain
        host = headers.get(b"host")
        if self.parser.get_http_version() == "1.1" if host is None else b", " in host:
            raise ValueError  # RFC 9112, 3.2: there is to be one; two are a list by now, and no host has a blank
        route = self._hottest if path == self._path else self._find(path)
        if route and self._goes_direct(route, headers.get(b"content-length", b"")):
            exchange = Exchange(self, self._connection, self._models, route, path.decode(), headers, query)
            exchange.keep_alive = self.parser.should_keep_alive()
            self.cycle = self._direct = exchange  # type: ignore[assignment]  # as above
        else:
            super().on_headers_complete()
            if self.cycle:
                while self._unanswered and self._unanswered[0].response_complete:  # they are answered in order
                    self._unanswered.popleft()
                self._unanswered.append(self.cycle)
            if self.cycle and self._models.draining:  # the next request is for another instance
                self.cycle.keep_alive = False
        self._in_head, self._more_bytes = False, 0

    def _find(self, path: bytes) -> DirectRoute | None:
        """Another route than the hottest; a path that has to be decoded is ASGI's business."""
        plain = path.isascii() and b"%" not in path
        return self._routes.find(self.parser.get_method().decode(), path.decode()) if plain else None

    def _goes_direct(self, route: DirectRoute, length: bytes) -> bool:
        return (
            self.parser.get_method() == route.method.encode()
            and length.isdigit()
            and int(length) <= min(DIRECT_BYTES, route.max_body_bytes)
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and self._free
        )

    @property
    def _free(self) -> bool:
        """Whether no reply is under way and the client reads what it is sent."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    def on_body(self, body: bytes) -> None:
        """A piece of the body is there."""
        self._more_bytes, self._quiet_since = 0, self.loop.time()
        if self._direct:
            self._direct.feed(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        self._arriving, self._more_bytes = False, 0
        exchange = self._direct
        if not exchange:
            super().on_message_complete()
        elif exchange.finish():
            request = exchange.request()
            if refused := exchange.route.refuse(request):
                exchange.send(*refused)
            else:
                self._run(exchange, request)

    def _run(self, exchange: Exchange, request: Incoming) -> None:
        task = self.loop.create_task(exchange.run(request))
        self.tasks.add(task)
        self._connection.tasks.add(task)
        task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self._connection.tasks.discard(task)

    def on_response_complete(self) -> None:
        """A reply is done. One timer that looks when it rings costs less than one that is set anew for each request."""
        self._quiet_since = self.loop.time()
        self._direct = None  # what may still come of its body is not kept
        if self.timeout_keep_alive_task is None or self.pipeline:
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.flow.resume_reading()

    @property
    def _unwaited(self) -> Exchange | None:
        """The exchange whose body is not whole, unless its route waits for that."""
        return self._direct if self._arriving and self._direct and not self._direct.is_waited_for else None

    def _look_soon(self) -> None:
        """Let the timer ring in time for a body that is not there yet; mostly it does anyway, for one before."""
        timer, soon = self.timeout_keep_alive_task, self.loop.time() + SLOW_S
        if timer and timer.when() > soon:
            timer.cancel()
            self.timeout_keep_alive_task = self.loop.call_at(soon, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection whose client has done nothing for so long, or has not ended a head.

        Where it is slow with a body, have the request's route begin.
        """
        now = self.loop.time()
        if not self._waits_for_client:
            self._quiet_since = now
        if now - self._quiet_since >= self.timeout_keep_alive:
            super().timeout_keep_alive_handler()
        else:
            if slow := self._unwaited:
                self._run(slow, slow.slow_request())
            self.timeout_keep_alive_task = self.loop.call_later(
                self._quiet_since + self.timeout_keep_alive - now, self.timeout_keep_alive_handler
            )

    @property
    def _waits_for_client(self) -> bool:
        """Whether it is the client that has to do something: begin a request, or go on with one."""
        if self.flow.read_paused or self.pipeline:
            return False
        return self._free or (self._arriving and not self._in_head)

    def _unset_keepalive_if_required(self) -> None:
        """Let it run."""

    def shutdown(self) -> None:
        """The process stops: whoever has just connected, or begun a request, may still have one answered."""
        if self.cycle is None or self._in_head:
            self.loop.call_later(HEAD_S, self._shut_down)
        else:
            super().shutdown()

    def _shut_down(self) -> None:
        self._cut_off_head()
        super().shutdown()

    def cut_off(self) -> None:
        """The process waits no longer: say so to who has not sent all of a request; uvicorn's tasks know the others."""
        if slow := self._unwaited:
            slow.send(*slow.route.cut_off(slow.request()))
        self._cut_off_head()

    def _cut_off_head(self) -> None:
        if self._in_head and self._free and not self.transport.is_closing():
            self._end_with(CUT_OFF)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, for whatever reason: uvicorn tells only the last of the requests that have come."""
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)
        if self.timeout_keep_alive_task:
            self.timeout_keep_alive_task.cancel()
        self._connection.end()
        if self._closed:
            self._closed()
