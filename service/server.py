"""The ASGI server: uvicorn, unready before it stops, its connections its own or handed over by a parent."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from service.administration import Administration
from service.channel import Channel, Message
from service.listening import SILENCE_S, last_connections
from service.protocol import Protocol
from service.serving import ServedModels
from service.settings import Settings

if TYPE_CHECKING:
    from service.rpc.server import RpcServer

Application = Callable[..., Awaitable[None]]  # ASGI 3
logger = logging.getLogger(__name__)


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
        drain_s = max(1, settings.drain_timeout_ms) / 1000  # within 0 s asyncio does not even look whether all is done
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                loop="service.event_loop:Loop",
                log_config=None,
                access_log=False,  # RequestLog writes it, with the request's id
                server_header=False,
                proxy_headers=False,  # nobody here asks for a client's address
                timeout_keep_alive=settings.keep_alive_ms // 1000,
                timeout_graceful_shutdown=drain_s,  # type: ignore[arg-type]  # asyncio, which gets it, takes fractions
            )
        )
        self._models, self._rpc, self._announce = models, rpc, announce
        self._lame_duck_s, self._drain_s, self._leaving = settings.lame_duck_ms / 1000, drain_s, False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._reload_asked = False  # since the last look at the model repository began
        self.lost = False  # stopped because a device failed for good
        models.on_lost = self._give_up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, then say so."""
        self._loop = asyncio.get_running_loop()
        self._heed_hangups(self._loop)
        gc.collect()
        gc.freeze()  # what is there now stays: collections need not go through it again and again
        await super().startup(sockets)
        if self.started and self._rpc:
            await self._rpc.start()
        if self.started:
            self._announce()

    def _heed_hangups(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what runs, over HTTP and over gRPC."""
        if sockets:
            await self._stop_listening(sockets)
        rpc = self._rpc.stop() if self._rpc else asyncio.sleep(0)
        time_is_up = asyncio.get_running_loop().call_later(self._drain_s, self._cut_off)
        await asyncio.gather(super().shutdown(sockets), rpc)
        time_is_up.cancel()
        self._cut_off()  # who came in the last moment
        if self.force_exit:  # then uvicorn leaves both out
            for task in self.server_state.tasks:
                task.cancel()
            await self.lifespan.shutdown()

    def _cut_off(self) -> None:
        """Answer the requests that uvicorn has no task for to cancel."""
        for connection in list(self.server_state.connections):
            assert isinstance(connection, Protocol)
            connection.cut_off()

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
        """SIGTERM: unready, a while later no new connections, finish what runs. SIGINT: the same without the while.

        SIGINT once more: finish nothing.
        """
        self._models.draining = True
        if self._leaving and sig == signal.SIGINT:
            self.force_exit = True
            if self._loop:
                self._loop.call_soon_threadsafe(self._abandon)
        if self._loop and sig == signal.SIGTERM and not self._leaving:
            self._loop.call_soon_threadsafe(self._loop.call_later, self._lame_duck_s, self._exit)
        else:
            self._exit()
        self._leaving = True

    def _abandon(self) -> None:
        """Cut off what is under way."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # from Python 3.12 on a closed listener waits for each
        if self._rpc:
            self._rpc.abandon()

    def reload(self) -> None:
        """Serve what the model repository holds now; who asks during a look at it gets another one after it."""
        self._reload_asked = True
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        while self._reload_asked:
            self._reload_asked = False
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
        channel: Channel,
        administration: Administration,
        rpc: RpcServer | None = None,
    ) -> None:
        at_once = settings.model_copy(update={"lame_duck_ms": 0})  # the supervisor sees to that
        super().__init__(app, models, at_once, rpc=rpc, announce=lambda: channel.send(Message.READY))
        self._channel, self._spreading = channel, deque[asyncio.Future[None]]()
        administration.spread = self._spread

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - the signature is uvicorn's
        """Begin to take connections."""
        self._channel.open(self._hear, self._finish)
        await super().startup([])

    def _heed_hangups(self, loop: asyncio.AbstractEventLoop) -> None:
        """Not at all: who sends SIGHUP to all processes at once tells the parent, which lets one look at a time."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Go on: who sends SIGTERM to all processes at once tells the parent, too, and that one says when to stop."""

    async def _reload(self) -> None:
        try:
            await super()._reload()
        finally:  # the parent waits for it
            self._channel.send(Message.RELOADED)

    async def _spread(self) -> None:
        """Let all workers look at the models, and wait until they have."""
        spread = asyncio.get_running_loop().create_future()
        self._spreading.append(spread)
        self._channel.send(Message.CHANGED)
        await spread

    def _hear(self, message: Message, connection: socket.socket | None) -> None:
        match message:
            case Message.CONNECTION:
                self._channel.send(Message.TAKEN)
                if connection is None:
                    logger.error("a connection is lost: this process has no free descriptor")
                    self._ended()
                else:
                    asyncio.get_running_loop().create_task(self._serve_connection(connection))
            case Message.RELOAD:
                self.reload()
            case Message.SPREAD:
                spread = self._spreading.popleft()
                if not spread.done():  # its client may have gone
                    spread.set_result(None)
            case Message.SILENCE:
                time.sleep(SILENCE_S)  # not asyncio's, as in `_stop_listening`
            case Message.LAME_DUCK:
                self._models.draining = True
            case Message.STOP:
                self._finish()
            case Message.ABANDON:
                self.force_exit = True
                self._finish()
                self._abandon()

    def _finish(self) -> None:
        """No more connections will come: the parent says so, or is gone."""
        self._models.draining = self.should_exit = True

    def _ended(self) -> None:
        self._channel.send(Message.CLOSED)
