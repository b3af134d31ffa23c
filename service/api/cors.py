"""Pages of other origins whose scripts may ask and read what is answered (the Fetch standard's CORS protocol).

Starlette's middleware does it for the framework's routes and answers what browsers ask beforehand; direct routes, which
pass it by, have the same headers from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

ANY = "*"
METHODS = ("GET", "HEAD", "POST", "DELETE")
ALLOWED, EXPOSED = b"access-control-allow-origin", (b"access-control-expose-headers", b"*")
VARIES = (b"vary", b"Origin")


class Origins:
    """Those that are allowed, like https://shop.example; "*" are all."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = allowed
        self._origins = {origin.encode() for origin in allowed}

    def headers(self, asked: Mapping[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
        """What the answer to a request with the headers `asked` has besides; nothing where its page may not read it."""
        origin = asked.get(b"origin")
        if origin is None:
            return ()
        if ANY in self._allowed:
            return (ALLOWED, b"*"), EXPOSED
        return ((ALLOWED, origin), EXPOSED, VARIES) if origin in self._origins else ()

    def install(self, app: FastAPI) -> None:
        """See to the framework's routes of `app`."""
        app.add_middleware(
            CORSMiddleware,
            allow_origins=self._allowed,
            allow_methods=METHODS,
            allow_headers=[ANY],
            expose_headers=[ANY],
        )
