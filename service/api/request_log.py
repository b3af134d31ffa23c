"""Around every request: its id, echoed and put into every log line, and one line about how it went. Pure ASGI.

It wraps every route, so that what nobody foresaw is answered and logged under the request's id too.
"""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import telemetry
from service.api import problems
from service.errors import MalformedRequest, ServiceError

HEADER = b"x-request-id"
VALID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")  # what can stand in a header and a log line and mean only itself
PROBES = ("/livez", "/readyz")
UNEXPECTED = ServiceError("The service failed; try again, and tell the operator the request id if it repeats.")
logger = logging.getLogger(__name__)


class RequestLog:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of the ASGI server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
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
            if scope["path"] not in PROBES:
                fields = {"method": scope["method"], "path": scope["path"], "status": status}
                logger.info("request", extra={**fields, "ms": round((time.monotonic() - began) * 1000, 2)})
            telemetry.request_id.reset(token)
