"""The ASGI server: uvicorn, unready before it stops, its connections its own or handed over by a parent."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.direct import DirectRoute, Header
from service.api.incoming import CONNECTION_EXTENSION, Connection, Incoming, Reply
from service.serving import ServedModels
from service.settings import Settings
from service.supervisor import CLOSED, CONNECTION, LAME_DUCK, READY, RELOAD, RELOADED, TAKEN

Application = Callable[..., Awaitable[None]]  # ASGI 3
FIRST_REQUEST_S = 0.5  # how long a stopping process waits for the first request on a connection
DIRECT_BYTES = 1 << 20  # larger bodies are worth being read with ASGI's care, piece by piece


class Protocol(HttpToolsProtocol):
    """uvicorn's, with the hot route past ASGI, and word of a connection's end for those that work for it.

    A request goes past ASGI when nothing about it needs more than its whole body and one reply: it is not large, no
    other one is being answered on its connection, and the client reads what it is sent.
    """

    def __init__(self, *arguments: object, closed: Callable[[], None] | None = None, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self._connection, self._closed = Connection(), closed
        self._route: DirectRoute = self.app.direct
        self._path = self._route.path.encode()
        self.models: ServedModels = self.app.state.served
        self._direct: Exchange | None = None  # the exchange whose request arrives

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._direct = None
        self.scope["extensions"] = {CONNECTION_EXTENSION: self._connection}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        """The head is there."""
        path, _, query = self.url.partition(b"?")
        headers = dict(self.headers)
        if path == self._path and self._goes_direct(headers.get(b"content-length", b"")):
            self.cycle = self._direct = Exchange(self, headers, query)  # type: ignore[assignment]
        else:
            super().on_headers_complete()

    def _goes_direct(self, length: bytes) -> bool:
        return (
            self.parser.get_method() == self._route.method.encode()
            and length.isdigit()
            and int(length) <= min(DIRECT_BYTES, self._route.max_body_bytes)
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and (self.cycle is None or self.cycle.response_complete)
        )

    def on_body(self, body: bytes) -> None:
        """A piece of the body is there."""
        if self._direct:
            self._direct.pieces.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        if self._direct:
            self._direct.keep_alive = self._direct.keep_alive and self.parser.should_keep_alive()
            request = self._direct.request(self._connection)
            if refused := self._route.refuse(request):
                self._direct.send(*refused)
                return
            task = self.loop.create_task(self._direct.run(self._route, request))
            self.tasks.add(task)
            self._connection.tasks.add(task)
            task.add_done_callback(self._answered)
        else:
            super().on_message_complete()

    def _answered(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self._connection.tasks.discard(task)

    def shutdown(self) -> None:
        """The process stops: whoever has just connected may still have one request answered."""
        if self.cycle is None:
            self.loop.call_later(FIRST_REQUEST_S, super().shutdown)
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, for whatever reason."""
        super().connection_lost(exc)
        self._connection.end()
        if self._closed:
            self._closed()


class Exchange:
    """A request to the hot route and its reply: what uvicorn's `RequestResponseCycle` is to the others."""

    message_event = asyncio.Event()  # uvicorn sets it when the connection ends; nobody waits for it here

    def __init__(self, protocol: Protocol, headers: dict[bytes, bytes], query: bytes) -> None:
        self._protocol, self._headers, self._query = protocol, headers, query
        self._began = time.perf_counter()
        self.pieces: list[bytes] = []
        self.keep_alive = True  # uvicorn takes it back when it stops
        self.disconnected = self.response_complete = False

    def request(self, connection: Connection) -> Incoming:
        """What has arrived, once all of it has."""
        body = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        return Incoming(self._headers, self._query, body, connection, self._began)

    async def run(self, route: DirectRoute, request: Incoming) -> None:
        """Have the request answered; without an answer the connection ends."""
        try:
            await route.handle(request, self._answer)
        finally:
            if not self.response_complete:
                self._protocol.transport.close()

    async def _answer(self, reply: Reply, request_id: Header) -> None:
        self.send(reply, request_id)

    def send(self, reply: Reply, request_id: Header) -> None:
        """Head and body in one write: two would be two packets."""
        protocol = self._protocol
        if self.disconnected:
            return
        self.keep_alive = self.keep_alive and not protocol.models.draining  # the next request is for another instance
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


class Server(uvicorn.Server):
    """Serves `app` on the listening socket given to `run`."""

    def __init__(
        self, app: Application, models: ServedModels, settings: Settings, *, announce: Callable[[], None]
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                log_config=None,
                access_log=False,  # RequestLog writes it, with the request's id
                server_header=False,
                proxy_headers=False,  # nobody here asks for a client's address
                timeout_keep_alive=settings.keep_alive_ms // 1000,
                timeout_graceful_shutdown=max(1, settings.drain_timeout_ms // 1000),
            )
        )
        self._models, self._announce = models, announce
        self._lame_duck_s, self._leaving = settings.lame_duck_ms / 1000, False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reloading: asyncio.Task[None] | None = None
        self.lost = False  # stopped because a device failed for good
        models.on_lost = self._give_up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, then say so."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGHUP, self.reload)
        gc.collect()
        gc.freeze()  # what is there now stays: collections need not go through it again and again
        await super().startup(sockets)
        if self.started:
            self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature is uvicorn's
        """SIGTERM: unready, a while later no new connections, finish what runs. SIGINT: the same without the while."""
        self._models.draining = True
        if self._leaving and sig == signal.SIGINT:
            self.force_exit = True
        if self._loop and sig == signal.SIGTERM and not self._leaving:
            self._loop.call_soon_threadsafe(self._loop.call_later, self._lame_duck_s, self._exit)
        else:
            self._exit()
        self._leaving = True

    def reload(self) -> None:
        """Serve what the model repository holds now; one look at it after the other."""
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        await self._models.reload()

    def _give_up(self) -> None:
        self.lost = self._models.draining = self.should_exit = True

    def _exit(self) -> None:
        self.should_exit = True  # uvicorn's own method would raise the signal again at the end: not a clean exit


class WorkerServer(Server):
    """Gets its connections over a channel from the `Supervisor`, and tells it which have ended."""

    def __init__(self, app: Application, models: ServedModels, settings: Settings, channel: socket.socket) -> None:
        at_once = settings.model_copy(update={"lame_duck_ms": 0})  # the supervisor sees to that
        super().__init__(app, models, at_once, announce=lambda: self._tell(READY))
        self._channel = channel
        channel.setblocking(False)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - the signature is uvicorn's
        """Begin to take connections."""
        asyncio.get_running_loop().add_reader(self._channel, self._hear)
        await super().startup([])

    async def _reload(self) -> None:
        await super()._reload()
        self._tell(RELOADED)

    def _tell(self, message: int) -> None:
        try:
            self._channel.send(bytes([message]))
        except OSError:
            self.should_exit = True  # the parent is gone: nothing will come any more

    def _hear(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
        except BlockingIOError:
            return
        except OSError:
            message, descriptors = b"", []
        if message == CONNECTION:
            self._tell(TAKEN)
            asyncio.get_running_loop().create_task(self._serve_connection(socket.socket(fileno=descriptors[0])))
            return
        if message == RELOAD:
            self.reload()
            return
        self._models.draining = True
        if message != LAME_DUCK:  # the parent is gone
            asyncio.get_running_loop().remove_reader(self._channel)
            self.should_exit = True

    async def _serve_connection(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:
            self._tell(CLOSED)

    def _protocol(self) -> asyncio.Protocol:
        return Protocol(self.config, self.server_state, self.lifespan.state, closed=lambda: self._tell(CLOSED))
