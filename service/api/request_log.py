"""What is kept of every request: its id, echoed and put into every log line, its count, and one line about it.

What nobody foresaw is answered and logged under the request's id too.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable
from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import telemetry
from service.api import problems
from service.api.cors import Origins
from service.api.incoming import CONNECTION_EXTENSION, joined
from service.counters import Cell
from service.errors import Draining, MalformedRequest, ServiceError
from service.metrics import Histogram, Metrics

HEADER = b"x-request-id"
VALID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")  # what can stand in a header and a log line and mean only itself
PROBES = ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")
REFUSALS = {503, 504}  # they come in floods, and a line for each would make matters worse
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
PATH_CHARS = 256  # in its line, of up to 12 bytes each: a pipe that workers share keeps lines of 4096 bytes whole
OTHER = "other"  # route or method: clients may make up as many as they like
UNEXPECTED = ServiceError("The service failed; try again, and tell the operator the request id if it repeats.")
CUT_OFF = Draining("The service stopped before the request could be answered; send the request to another instance.")
logger = logging.getLogger(__name__)


class RequestLog:
    """Where requests are counted, and those that the settings ask for have their line."""

    def __init__(self, metrics: Metrics, log_requests: Literal["all", "failed"]) -> None:
        self._metrics, self._log_all = metrics, log_requests == "all"
        self._counts: dict[tuple[str, str, int], tuple[Cell, Histogram]] = {}

    def record(
        self, route: str, method: str, path: str, status: int, seconds: float, request_id: bytes | None = None
    ) -> None:
        """A request has been answered; `request_id` is that of one that no task of its own stands for."""
        method = method if method in METHODS else OTHER
        if (counts := self._counts.get((route, method, status))) is None:
            counts = self._counts[route, method, status] = (
                self._metrics.cell("convoy_requests_total", route, method, str(status)),
                self._metrics.histogram("convoy_request_seconds", route),
            )
        counts[0].add()
        counts[1].observe(seconds)
        if (status >= 400 and status not in REFUSALS) or (self._log_all and path not in PROBES):
            shown = path if len(path) <= PATH_CHARS else path[:PATH_CHARS] + "…"
            fields = {"method": method, "path": shown, "status": status, "ms": round(seconds * 1000, 2)}
            logger.info("request", extra=fields | ({"request_id": request_id.decode()} if request_id else {}))


def identify(given: bytes | None) -> tuple[bytes, MalformedRequest | None]:
    """The request's id, which is the client's where it sent one, and what is wrong with that one."""
    if given is not None and VALID.fullmatch(given):
        return given, None
    made = b"%032x" % random.getrandbits(128)
    if given is None:
        return made, None
    return made, MalformedRequest("header X-Request-Id: use up to 128 letters, digits and . _ : / + = -")


class RequestLogMiddleware:
    """Pure ASGI middleware around an application that finds its route itself."""

    def __init__(self, app: ASGIApp, log: RequestLog, origins: Origins, draining: Callable[[], bool]) -> None:
        """`draining` says whether the process is about to stop: only then are tasks of clients that wait cancelled."""
        self._app, self._log, self._origins, self._draining = app, log, origins, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of the ASGI server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        current, error = identify(next((value for name, value in scope["headers"] if name == HEADER), None))
        token = telemetry.request_id.set(current.decode())
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (HEADER, current)]
            await send(message)

        async def refuse(error: ServiceError) -> None:
            answer = problems.response(error, scope["path"])
            answer.raw_headers.extend(self._origins.headers(joined(scope["headers"])))  # it passes CORS's middleware by
            await answer(scope, receive, send_with_id)

        try:
            if error:
                await refuse(error)
            else:
                await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if not self._draining():
                raise
            if status is None and not _gone(scope):  # else the server ends the connection without a word of its own
                await refuse(CUT_OFF)
        except Exception:
            logger.exception("unexpected error")
            if status is not None:
                raise  # the answer has begun: all that is left is to cut the connection
            await refuse(UNEXPECTED)
        finally:
            route = str(getattr(scope.get("route"), "path", OTHER))
            seconds = time.perf_counter() - began
            status = status or problems.CLIENT_CLOSED_REQUEST
            self._log.record(route, scope["method"], scope["path"], status, seconds)
            telemetry.request_id.reset(token)


def _gone(scope: Scope) -> bool:
    """Whether the client is known to have gone."""
    connection = scope.get("extensions", {}).get(CONNECTION_EXTENSION)
    return connection is not None and connection.ended
