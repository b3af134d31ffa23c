"""The hot routes' way past routing, middleware and ASGI's messages: a request in, one reply out.

Each of the three costs as much as a small model. What they do for the other routes is done here: the request's id, its
count, its log line, problems for errors, and an end for the work of clients that have gone.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from service import shares, telemetry
from service.api import problems
from service.api.authentication import Keys
from service.api.body_room import BodyRoom
from service.api.cors import Origins
from service.api.incoming import Incoming, Reply
from service.api.request_log import CUT_OFF, HEADER, OTHER, UNEXPECTED, RequestLog, identify
from service.errors import MalformedRequest, ServiceError
from service.metrics import Metrics

Header = tuple[bytes, bytes]
Endpoint = Callable[[Incoming], Awaitable[Reply]]
SendReply = Callable[[Reply, Header], Awaitable[None]]  # the reply, and the header that names the request
NO_OTHERS = Origins(())
logger = logging.getLogger(__name__)


class DirectRoute:
    """One method of one path, with {places} in it; an ASGI application too, for servers that know no better way."""

    def __init__(
        self,
        method: str,
        path: str,
        endpoint: Endpoint,
        *,
        refusal: Callable[[Incoming], ServiceError | None] = lambda _request: None,
        draining: Callable[[], bool] = lambda: False,
        keys: Keys | None = None,
        origins: Origins = NO_OTHERS,
        max_body_bytes: int,
        room: BodyRoom,
        log: RequestLog,
        metrics: Metrics,
    ) -> None:
        """`refusal` says at once, and more cheaply than `endpoint` could, why a request is not worth its work.

        `draining` says whether the process is about to stop.
        """
        self.method, self.path, self.max_body_bytes, self._room = method, path, max_body_bytes, room
        self.pattern = re.compile(re.sub(r"{\w+}", "[^/]+", path))
        self._endpoint, self._refusal, self._keys, self._log = endpoint, refusal, keys, log
        self._origins = origins
        self._draining = draining
        self.refusing = False  # whether the last request that was asked about was refused
        self._responded = metrics.histogram("convoy_stage_seconds", "respond")

    def refuse(self, request: Incoming) -> tuple[Reply, Header] | None:
        """The reply to a request that is refused unseen; None for all others."""
        try:
            if self._keys:
                self._keys.check(request.headers)  # how busy the service is, is not for everyone to know
            error = self._refusal(request)
        except ServiceError:
            error = None  # `handle` finds it again
        self.refusing = error is not None
        return None if error is None else self._unseen(request, error)

    def cut_off(self, request: Incoming) -> tuple[Reply, Header]:
        """The reply to a request that is not whole when the process may wait for it no longer."""
        return self._unseen(request, CUT_OFF)

    def _unseen(self, request: Incoming, error: ServiceError) -> tuple[Reply, Header]:
        current, _ = identify(request.headers.get(HEADER))
        seconds = time.perf_counter() - request.began
        self._log.record(self.path, self.method, request.path, int(error.status), seconds, current)
        return self._readable(request, problems.reply(error, request.path, current.decode())), (HEADER, current)

    def _readable(self, request: Incoming, reply: Reply) -> Reply:
        """The same, for scripts of pages elsewhere that may read it."""
        headers = self._origins.headers(request.headers)
        return reply._replace(headers=(*reply.headers, *headers)) if headers else reply

    async def handle(self, request: Incoming, send: SendReply) -> None:
        """Answer `request` by one call of `send`; a client that goes away takes its images out of the queue.

        One that still waits when the time of a stopping process is up is told so.
        """
        current, error = identify(request.headers.get(HEADER))
        telemetry.request_id.set(current.decode())  # of this task alone
        request.room = self._room
        try:
            self._origins.check(request.headers)
            shares.client.set(self._keys.check(request.headers) if self._keys else request.connection.address.encode())
            reply = problems.reply(error, request.path) if error else await self._endpoint(request)
        except ServiceError as exc:
            reply = problems.reply(exc, request.path)
        except (asyncio.CancelledError, ClientDisconnect) as exc:
            if isinstance(exc, ClientDisconnect) or request.connection.ended:
                reply = Reply(problems.CLIENT_CLOSED_REQUEST, b"text/plain", b"")
            elif self._draining():  # the server cancels what has not ended in time
                reply = problems.reply(CUT_OFF, request.path)
            else:
                raise
        except Exception:
            logger.exception("unexpected error")
            reply = problems.reply(UNEXPECTED, request.path)
        finally:
            request.let_go()
        # Counted first: whoever has an answer finds it counted, even when this process dies at once.
        self._log.record(self.path, self.method, request.path, reply.status, time.perf_counter() - request.began)
        await send(self._readable(request, reply), (HEADER, current))
        if reply.since is not None:
            self._responded.observe(time.perf_counter() - reply.since)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of the ASGI server."""
        request, task = Incoming.of(scope, receive), asyncio.current_task()
        assert task is not None
        request.connection.tasks.add(task)
        task.add_done_callback(request.connection.tasks.discard)
        await self.handle(request, partial(_send, send))


async def _send(send: Send, reply: Reply, request_id: Header) -> None:
    """The reply in ASGI's messages."""
    length = str(len(reply.body)).encode()
    head = [(b"content-type", reply.media_type), (b"content-length", length), request_id, *reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": head})
    await send({"type": "http.response.body", "body": reply.body})


class DirectRoutes:
    """All of them, the hottest first."""

    def __init__(self, *routes: DirectRoute, log: RequestLog) -> None:
        self.hottest, self._routes, self._log = routes[0], routes, log

    def find(self, method: str, path: str) -> DirectRoute | None:
        """The one for this request, if there is one."""
        return next((each for each in self._routes if each.method == method and each.pattern.fullmatch(path)), None)

    def no_request(self, error: ServiceError, method: str, path: str) -> tuple[Reply, Header]:
        """The reply to what is no whole request, as far as its `method` and `path` could be read."""
        current, _ = identify(None)
        self._log.record(OTHER, method, path, int(error.status), 0.0, current)
        return problems.reply(error, path, current.decode()), (HEADER, current)

    def saying_malformed(self, detail: str) -> ASGIApp:
        """What gives that reply to a request whose head could be read."""

        async def say(scope: Scope, _receive: Receive, send: Send) -> None:
            await _send(send, *self.no_request(MalformedRequest(detail), scope["method"], scope["path"]))

        return say
