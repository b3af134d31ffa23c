"""The ASGI server: uvicorn, unready before it stops, its connections its own or handed over by a parent."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.incoming import CONNECTION_EXTENSION, Connection
from service.classifier import Classifier
from service.settings import Settings
from service.supervisor import CLOSED, CONNECTION, LAME_DUCK, READY

Application = Callable[..., Awaitable[None]]  # ASGI 3


class Protocol(HttpToolsProtocol):
    """uvicorn's, with word of a connection's end for the tasks that work for it and for `closed`."""

    def __init__(self, *arguments: object, closed: Callable[[], None] | None = None, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self._connection, self._closed = Connection(), closed

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION_EXTENSION: self._connection}  # type: ignore[dict-item]

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, for whatever reason."""
        super().connection_lost(exc)
        self._connection.end()
        if self._closed:
            self._closed()


class Server(uvicorn.Server):
    """Serves `app` on the listening socket given to `run`."""

    def __init__(
        self, app: Application, classifier: Classifier, settings: Settings, *, announce: Callable[[], None]
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                log_config=None,
                access_log=False,  # RequestLog writes it, with the request's id
                server_header=False,
                timeout_keep_alive=settings.keep_alive_ms // 1000,
                timeout_graceful_shutdown=max(1, settings.drain_timeout_ms // 1000),
            )
        )
        self._classifier, self._announce = classifier, announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, then say so."""
        await super().startup(sockets)
        if self.started:
            self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature is uvicorn's
        """SIGTERM and SIGINT: unready, no new connections, finish what runs; a second SIGINT ends at once."""
        self._classifier.draining = True
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True  # uvicorn's own method would raise the signal again at the end: not a clean exit


class WorkerServer(Server):
    """Gets its connections over a channel from the `Supervisor`, and tells it which have ended."""

    def __init__(self, app: Application, classifier: Classifier, settings: Settings, channel: socket.socket) -> None:
        super().__init__(app, classifier, settings, announce=lambda: self._tell(READY))
        self._channel = channel
        channel.setblocking(False)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - the signature is uvicorn's
        """Begin to take connections."""
        asyncio.get_running_loop().add_reader(self._channel, self._hear)
        await super().startup([])

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
            asyncio.get_running_loop().create_task(self._serve_connection(socket.socket(fileno=descriptors[0])))
            return
        self._classifier.draining = True
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
