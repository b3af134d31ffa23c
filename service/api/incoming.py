"""A request as the ASGI server hands it over: its head, read once, and its body as it arrives.

What every request to the hot route needs and nothing more: a framework's request object costs as much as a small model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from service.errors import BodyTooLarge, MalformedRequest

CONNECTION_EXTENSION = "convoy.connection"  # the ASGI extension that our own server offers


class Connection:
    """A client's connection and the tasks that work for it: they are cancelled when it ends."""

    def __init__(self) -> None:
        self.ended = False
        self.tasks: set[asyncio.Task[object]] = set()

    def end(self) -> None:
        """The client has gone; nobody waits for the answers any more."""
        self.ended = True
        for task in self.tasks:
            task.cancel()


class Incoming:
    """One HTTP request."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        query = scope["query_string"]
        self._query: dict[str, str] = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)) if query else {}

    def header(self, name: bytes) -> str | None:
        """The header's value; `name` in lower case."""
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    def query(self, name: str) -> str | None:
        """The parameter's value, the last one where it is repeated."""
        return self._query.get(name)

    async def whole(self, limit: int) -> bytes:
        """The body; raises as `chunks` does."""
        chunks = [chunk async for chunk in self.chunks(limit)]
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def chunks(self, limit: int) -> AsyncIterator[bytes]:
        """The body as it arrives.

        Raises `BodyTooLarge` as soon as it is known to be more than `limit` bytes, `ClientDisconnect` when it ends
        before its end.
        """
        declared = self._headers.get(b"content-length", b"0")
        too_large = declared.isdigit() and int(declared) > limit
        received, more = 0, True
        while more and not too_large:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk, more = message.get("body", b""), message.get("more_body", False)
            received += len(chunk)
            too_large = received > limit
            if chunk and not too_large:
                yield chunk
        if too_large:
            raise BodyTooLarge(f"The body may have {limit:,} bytes at most; send less at a time.")


def positive(text: str | None, place: str) -> int | None:
    """A whole number from 1 up, or None where there is none; raises `MalformedRequest`."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text)):
        raise MalformedRequest(f"{place}: send a whole number, 1 or more.")
    return int(text)
