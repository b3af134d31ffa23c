"""The ASGI server: uvicorn, unready before it stops, its connections its own or handed over by a parent."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from service.administration import Administration
from service.listening import SILENCE_S, last_connections
from service.protocol import Protocol
from service.serving import ServedModels
from service.settings import Settings
from service.supervisor import CHANGED, CLOSED, CONNECTION, LAME_DUCK, READY, RELOAD, RELOADED, SILENCE, SPREAD, TAKEN

if TYPE_CHECKING:
    from service.rpc.server import RpcServer

Application = Callable[..., Awaitable[None]]  # ASGI 3


class Server(uvicorn.Server):
    """Serves `app` on the listening socket given to `run`."""

    def __init__(
        self,
        app: Application,
        models: ServedModels,
        settings: Settings,
        *,
        rpc: RpcServer | None = None,
        announce: Callable[[], None],
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                loop="service.event_loop:Loop",
                log_config=None,
                access_log=False,  # RequestLog writes it, with the request's id
                server_header=False,
                proxy_headers=False,  # nobody here asks for a client's address
                timeout_keep_alive=settings.keep_alive_ms // 1000,
                timeout_graceful_shutdown=max(1, settings.drain_timeout_ms // 1000),
            )
        )
        self._models, self._rpc, self._announce = models, rpc, announce
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
        if self.started and self._rpc:
            await self._rpc.start()
        if self.started:
            self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what runs, over HTTP and over gRPC."""
        if sockets:
            await self._stop_listening(sockets)
        rpc = self._rpc.stop() if self._rpc else asyncio.sleep(0)
        await asyncio.gather(super().shutdown(sockets), rpc)

    async def _stop_listening(self, listeners: list[socket.socket]) -> None:
        time.sleep(SILENCE_S)  # not asyncio's: nothing else is to run meanwhile
        last = [connection for listener in listeners for connection in last_connections(listener)]
        for server in self.servers:
            server.close()
        for connection in last:
            await self._serve_connection(connection)
        await asyncio.sleep(0)  # what asyncio accepted itself is served from the next turn on

    async def _serve_connection(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:
            self._ended()

    def _protocol(self) -> asyncio.Protocol:
        return Protocol(self.config, self.server_state, self.lifespan.state, closed=self._ended)

    def _ended(self) -> None:
        """A connection has ended."""

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

    def __init__(
        self,
        app: Application,
        models: ServedModels,
        settings: Settings,
        channel: socket.socket,
        administration: Administration,
        rpc: RpcServer | None = None,
    ) -> None:
        at_once = settings.model_copy(update={"lame_duck_ms": 0})  # the supervisor sees to that
        super().__init__(app, models, at_once, rpc=rpc, announce=lambda: self._tell(READY))
        self._channel, self._spreading = channel, deque[asyncio.Future[None]]()
        channel.setblocking(False)
        administration.spread = self._spread

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - the signature is uvicorn's
        """Begin to take connections."""
        asyncio.get_running_loop().add_reader(self._channel, self._hear)
        await super().startup([])

    async def _reload(self) -> None:
        await super()._reload()
        self._tell(RELOADED)

    async def _spread(self) -> None:
        """Let all workers look at the models, and wait until they have."""
        spread = asyncio.get_running_loop().create_future()
        self._spreading.append(spread)
        self._tell(CHANGED)
        await spread

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
        if message == SPREAD:
            spread = self._spreading.popleft()
            if not spread.done():  # its client may have gone
                spread.set_result(None)
            return
        if message == SILENCE:
            time.sleep(SILENCE_S)  # not asyncio's, as in `_stop_listening`
            return
        self._models.draining = True
        if message != LAME_DUCK:  # the parent is gone
            asyncio.get_running_loop().remove_reader(self._channel)
            self.should_exit = True

    def _ended(self) -> None:
        self._tell(CLOSED)
