"""Who may ask, where the operator has given out keys: `Authorization: Bearer <key>` (RFC 6750), or `X-API-Key: <key>`.

What tells nothing about anybody's images stays open: probes, metrics, the documentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.api.incoming import joined
from service.errors import Forbidden, Unauthorized

ROOTS = ("/v1", problems.OPEN_INFERENCE)
PROBES = f"{problems.OPEN_INFERENCE}/health"


class Keys:
    """The known keys. Only their digests are kept and compared, so that no answer's time tells of a key."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = {_digest(key.encode()) for key in keys}

    def check(self, headers: Mapping[bytes, bytes]) -> bytes:
        """The digest of the key in `headers`, whose names are in lower case; raises `Unauthorized` if none is known."""
        key = headers.get(b"x-api-key")
        scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
        if key is None and scheme.lower() == b"bearer":
            key = credentials.strip()
        if key is None:
            raise Unauthorized("This service asks for a key; send it as Authorization: Bearer <key>.")
        if (digest := _digest(key)) not in self._digests:
            raise Unauthorized("This key is not known here; ask the operator of the service for one.")
        return digest


class AdminRight:
    """The right to change which models serve: that of keys given out for it, and without any nobody's."""

    def __init__(self, admins: Keys | None, others: Keys | None) -> None:
        self._admins, self._others = admins, others

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Raise `Unauthorized` for no or an unknown key, `Forbidden` for one without the right or if nobody has it."""
        if self._admins is None:
            raise Forbidden("Nobody may change the models over this interface; its operator can give out admin keys.")
        try:
            self._admins.check(headers)
        except Unauthorized:
            if self._others is not None:
                self._others.check(headers)
                raise Forbidden("This key may ask for predictions only; send one with the admin right.") from None
            raise

    def __call__(self, request: Request) -> None:
        """`check`, as a dependency of FastAPI's."""
        self.check(joined(request.scope["headers"]))


class KeysMiddleware:
    """Pure ASGI middleware in front of all routes but the direct ones."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of the ASGI server."""
        if scope["type"] == "http" and closed(scope["path"]):
            try:
                self._keys.check(joined(scope["headers"]))
            except Unauthorized as exc:
                await problems.response(exc, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)


def closed(path: str) -> bool:
    """Whether a key is needed there."""
    path = path.rstrip("\n")  # which routes let pass behind their own
    return any(problems.below(path, root) for root in ROOTS) and not problems.below(path, PROBES)


def _digest(key: bytes) -> bytes:
    return sha256(key).digest()
