"""Pages of other origins: which may ask, and whose scripts may read the answers (the Fetch standard's CORS protocol).

Starlette's middleware does the latter for the framework's routes, and answers what browsers ask beforehand; direct
routes, which pass all middleware by, do both from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.api.incoming import joined
from service.errors import Forbidden

ANY = "*"
METHODS = ("GET", "HEAD", "POST", "DELETE")
HARMLESS = {"GET", "HEAD", "OPTIONS"}
ALLOWED, EXPOSED = b"access-control-allow-origin", (b"access-control-expose-headers", b"*")
VARIES = (b"vary", b"Origin")
ASKING, ELSEWHERE = b"sec-fetch-site", {b"cross-site", b"same-site"}  # what a browser says of the page that asks


class Origins:
    """Those that are allowed, like https://shop.example; "*" are all."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = allowed
        self._origins = {origin.encode() for origin in allowed}

    def check(self, asked: Mapping[bytes, bytes]) -> None:
        """Raise `Forbidden` where a page asks that may not: for its forms no browser asks for leave.

        A page that somebody happens to look at could else fill the disk of a server on the same machine. Browsers say
        who asks to such servers and over https alone (the W3C's Fetch Metadata).
        """
        if ASKING in asked and asked[ASKING] in ELSEWHERE and not self._allow(asked.get(b"origin")):
            raise Forbidden("Pages of other origins may not ask here; the operator allows them: CONVOY_CORS_ORIGINS.")

    def headers(self, asked: Mapping[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
        """What the answer to a request with the headers `asked` has besides; nothing where its page may not read it."""
        origin = asked.get(b"origin")
        if origin is None or not self._allow(origin):
            return ()
        return ((ALLOWED, b"*"), EXPOSED) if ANY in self._allowed else ((ALLOWED, origin), EXPOSED, VARIES)

    def _allow(self, origin: bytes | None) -> bool:
        return ANY in self._allowed or origin in self._origins

    def install(self, app: FastAPI) -> None:
        """See to the framework's routes of `app`."""
        app.add_middleware(_Check, origins=self)
        if self._allowed:
            app.add_middleware(
                CORSMiddleware,
                allow_origins=self._allowed,
                allow_methods=METHODS,
                allow_headers=[ANY],
                expose_headers=[ANY],
            )


class _Check:
    """Pure ASGI middleware in front of all routes but the direct ones."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app, self._origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in HARMLESS:
            try:
                self._origins.check(joined(scope["headers"]))
            except Forbidden as exc:
                await problems.response(exc, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)
