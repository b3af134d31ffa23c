"""A request that is read past the framework, and the reply to it: what both need and nothing more.

A framework's request object costs as much as a small model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Self, TypeVar, TypeVarTuple
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from service.api.body_room import SMALL_BYTES, BodyRoom
from service.api.queries import check_names
from service.api.threads import parsed
from service.errors import BodyTooLarge, DeadlineExceeded, MalformedRequest

CONNECTION_EXTENSION = "convoy.connection"  # the ASGI extension that our own server offers
Parsed = TypeVar("Parsed")
Parts = TypeVarTuple("Parts")
TYPE_BYTES = 1 << 10  # of a Content-Type or Accept: their parsers may take time by its square


class Connection:
    """A client's connection and the tasks that work for it: they are cancelled when it ends."""

    def __init__(self, address: str = "") -> None:
        self.address = address  # of the client, without its port
        self.ended = False
        self.tasks: set[asyncio.Task[None]] = set()

    def end(self) -> None:
        """The client has gone; nobody waits for the answers any more."""
        self.ended = True
        for task in self.tasks:
            task.cancel()


class Reply(NamedTuple):
    """What the client gets."""

    status: int
    media_type: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    since: float | None = None  # when its making began, on time.perf_counter


class Incoming:
    """One HTTP request: its head, and its body, whole already or as ASGI's `receive` brings it."""

    __slots__ = ("_body", "_held", "_parameters", "_query", "_until", "began", "connection", "headers", "path", "room")

    def __init__(
        self,
        path: str,
        headers: dict[bytes, bytes],  # names in lower case
        query: bytes,
        body: bytes | Receive,
        connection: Connection,
        began: float | None = None,  # when its head was there, on time.perf_counter
    ) -> None:
        self.path, self.headers, self._body, self.connection = path, headers, body, connection
        self._until: float | None = None  # how long its body is waited for
        self.room: BodyRoom | None = None  # for what is kept of its body
        self._held = 0  # bytes there
        self._query = query
        self._parameters: dict[str, str] | None = None  # of the query, once somebody has asked
        self.began = time.perf_counter() if began is None else began

    @classmethod
    def of(cls, scope: Scope, receive: Receive) -> Self:
        """A request of the ASGI server's."""
        address, _ = scope.get("client") or ("", 0)
        connection = scope.get("extensions", {}).get(CONNECTION_EXTENSION) or Connection(address)
        return cls(scope["path"], joined(scope["headers"]), scope["query_string"], receive, connection)

    @property
    def has_query(self) -> bool:
        """Whether it says more than its path."""
        return bool(self._query)

    def query(self, name: str) -> str | None:
        """The parameter's value, the last one where it is repeated."""
        return self._parsed_query().get(name) if self._query else None

    def check_query(self, *known: str) -> None:
        """Raise `MalformedRequest` where the query has a name that is likely a slip, and not `known`."""
        if self._query:
            check_names(self._parsed_query(), known)

    def _parsed_query(self) -> dict[str, str]:
        """Its parameters; a long query takes a while, which is for those alone who have a key."""
        if self._parameters is None:
            self._parameters = dict(parse_qsl(self._query.decode("latin-1"), keep_blank_values=True))
        return self._parameters

    def content_type(self) -> str:
        """What its body is by its head, not parsed yet, empty where that does not say; raises `MalformedRequest`."""
        value = self.headers.get(b"content-type", b"")
        check_length(value, "Content-Type")
        return value.decode("latin-1")

    @property
    def declared_bytes(self) -> int:
        """How long its body is to be by its head, of which 19 digits are looked at; 0 where that does not say."""
        declared = self.headers.get(b"content-length", b"")
        return int(declared.lstrip(b"0")[:19] or b"0") if declared.isdigit() else 0

    def deadline(self, longest_ms: float) -> float:
        """When its time is up, on the event loop's clock: `longest_ms` after its head, or before where it says so.

        From then on its body is not waited for either. Raises `MalformedRequest`.
        """
        given = positive(text(self.headers.get(b"x-request-timeout-ms")), "header X-Request-Timeout-Ms")
        elapsed = time.perf_counter() - self.began
        self._until = asyncio.get_running_loop().time() - elapsed + min(given or longest_ms, longest_ms) / 1000
        return self._until

    async def whole(self, limit: int) -> bytes:
        """The body; raises as `kept` does."""
        body = self._body
        if isinstance(body, bytes) and len(body) <= SMALL_BYTES and len(body) <= limit:
            return body
        return b"".join([chunk async for chunk in self.kept(limit)])

    async def kept(self, limit: int) -> AsyncIterator[bytes]:
        """As `chunks`, for who keeps them until `let_go`; raises `Overloaded` too, where there is no room for them."""
        async for chunk in self.chunks(limit):
            if self.room and (len(chunk) > SMALL_BYTES or not isinstance(self._body, bytes)):
                self.room.take(len(chunk), self._held)
                self._held += len(chunk)
            yield chunk

    def let_go(self) -> None:
        """What has come of its body is kept no longer."""
        if self.room and self._held:
            self.room.give_back(self._held)
            self._held = 0

    async def chunks(self, limit: int) -> AsyncIterator[bytes]:
        """The body as it arrives.

        Raises `BodyTooLarge` as soon as it is known to be more than `limit` bytes, `ClientDisconnect` when its
        client goes before the end of it, `DeadlineExceeded` when the request's time is up.
        """
        if self.declared_bytes > limit:
            raise _too_large(limit)
        received, more = 0, True
        while more:
            chunk, more = (self._body, False) if isinstance(self._body, bytes) else await _next(self._body, self._until)
            received += len(chunk)
            if received > limit:
                raise _too_large(limit)
            if chunk:
                yield chunk

    async def parsed(self, parse: Callable[[*Parts], Parsed], *parts: *Parts) -> Parsed:
        """What `parse` makes of `parts` of its body, in a thread; raises `DeadlineExceeded` too."""
        return await parsed(self._until, parse, *parts)


async def _next(receive: Receive, until: float | None) -> tuple[bytes, bool]:
    """The next piece, and whether more may follow."""
    try:
        async with asyncio.timeout_at(until):
            message = await receive()
    except TimeoutError as exc:
        raise DeadlineExceeded("The request's time was up before all of its body was there; allow more time.") from exc
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


def joined(fields: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """A request's header fields by their names; those of one name as one, a list (RFC 9110, section 5.3)."""
    headers = dict(fields)
    if len(headers) < len(fields):
        values: dict[bytes, list[bytes]] = {}
        for name, value in fields:
            values.setdefault(name, []).append(value)
        headers = {name: b", ".join(each) for name, each in values.items()}
    return headers


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body may have {limit:,} bytes at most; send less at a time.")


def positive(given: str | None, place: str) -> int | None:
    """A whole number from 1 up, or None where there is none; raises `MalformedRequest`."""
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 16 and int(given)):
        raise MalformedRequest(f"{place}: send a whole number, 1 or more.")
    return int(given)


def text(value: bytes | None) -> str | None:
    """A header's value as text."""
    return None if value is None else value.decode("latin-1")


def check_length(value: bytes | str, header: str) -> None:
    """Raise `MalformedRequest` for media types that are too long to be parsed."""
    if len(value) > TYPE_BYTES:
        raise MalformedRequest(f"header {header}: it may have {TYPE_BYTES:,} bytes at most; send a shorter one.")
