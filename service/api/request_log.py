"""Around every request: its id, echoed and put into every log line, its count, and one line about it. Pure ASGI.

What nobody foresaw is answered and logged under the request's id too.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import telemetry
from service.api import problems
from service.errors import MalformedRequest, ServiceError
from service.metrics import Metrics

HEADER = b"x-request-id"
VALID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")  # what can stand in a header and a log line and mean only itself
PROBES = ("/livez", "/readyz", "/metrics")
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
OTHER = "other"  # route or method: clients may make up as many as they like
UNEXPECTED = ServiceError("The service failed; try again, and tell the operator the request id if it repeats.")
logger = logging.getLogger(__name__)


class RequestLog:
    """ASGI middleware around `app`, which is one route, or, without `route`, finds its route itself."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, log_requests: Literal["all", "failed"], route: str | None = None
    ) -> None:
        self._app, self._metrics, self._log_all, self._route = app, metrics, log_requests == "all", route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of the ASGI server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        given = next((value for name, value in scope["headers"] if name == HEADER), None)
        valid = given is not None and VALID.fullmatch(given)
        current = given if given is not None and valid else uuid.uuid4().hex.encode()
        token = telemetry.request_id.set(current.decode())
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (HEADER, current)]
            await send(message)

        try:
            if given is not None and not valid:
                error = MalformedRequest("header X-Request-Id: use up to 128 letters, digits and . _ : / + = -")
                await problems.response(error)(scope, receive, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        except Exception:
            logger.exception("unexpected error")
            if status is not None:
                raise  # the answer has begun: all that is left is to cut the connection
            await problems.response(UNEXPECTED)(scope, receive, send_with_id)
        finally:
            self._count(scope, status or problems.CLIENT_CLOSED_REQUEST, time.perf_counter() - began)
            telemetry.request_id.reset(token)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = self._route or str(getattr(scope.get("route"), "path", OTHER))
        method = scope["method"] if scope["method"] in METHODS else OTHER
        self._metrics.cell("convoy_requests_total", route, method, str(status)).add()
        self._metrics.histogram("convoy_request_seconds", route).observe(seconds)
        if status >= 400 or (self._log_all and scope["path"] not in PROBES):
            fields = {"method": scope["method"], "path": scope["path"], "status": status}
            logger.info("request", extra={**fields, "ms": round(seconds * 1000, 2)})
