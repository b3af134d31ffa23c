"""A reply on its connection, written at once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from service.api.incoming import Connection, Reply
from service.exchange import Exchange

ID = (b"x-request-id", b"mine")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nserver: x\r\nx-request-id: mine"


class Wire:
    """What an exchange needs of its connection, and what it did to it."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = self.completed = 0
        self.transport = SimpleNamespace(write=self.writes.append, close=self._close)
        self.server_state = SimpleNamespace(default_headers=[(b"server", b"x")])

    def _close(self) -> None:
        self.closed += 1

    def on_response_complete(self) -> None:
        self.completed += 1


def exchange(wire: Wire, *, draining: bool = False, handle: Any = None) -> Exchange:  # noqa: ANN401 - of a fake
    models, route = SimpleNamespace(draining=draining), SimpleNamespace(handle=handle)
    connection = Connection("127.0.0.1")
    return Exchange(wire, connection, models, route, "/v1/predict", {b"a": b"b"}, b"top_k=3")  # type: ignore[arg-type]


def test_head_and_body_are_one_write() -> None:
    wire = Wire()
    exchange(wire).send(Reply(200, b"text/plain", b"hello"), ID)
    assert wire.writes == [HEAD + b"\r\ncontent-length: 5\r\n\r\nhello"]
    assert (wire.closed, wire.completed) == (0, 1)


def test_a_reply_may_have_headers_of_its_own() -> None:
    wire = Wire()
    exchange(wire).send(Reply(200, b"text/plain", b"", ((b"retry-after", b"2"),)), ID)
    assert wire.writes == [HEAD + b"\r\nretry-after: 2\r\ncontent-length: 0\r\n\r\n"]


@pytest.mark.parametrize("draining", [False, True])
def test_the_last_reply_of_a_connection_says_so(draining: bool) -> None:
    wire = Wire()
    one = exchange(wire, draining=draining)
    one.keep_alive = draining
    one.send(Reply(200, b"text/plain", b""), ID)
    assert wire.writes == [HEAD + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"]
    assert wire.closed == 1


def test_nobody_is_written_to_who_is_gone() -> None:
    wire = Wire()
    one = exchange(wire)
    one.disconnected = True
    one.send(Reply(200, b"text/plain", b""), ID)
    assert (wire.writes, wire.completed) == ([], 0)


def test_the_pieces_of_a_body_are_one_request() -> None:
    one = exchange(Wire())
    for piece in (b"ab", b"c"):
        one.feed(piece)
    assert one.finish()
    request = one.request()
    assert (asyncio.run(request.whole(10)), request.query("top_k"), request.headers) == (b"abc", "3", {b"a": b"b"})


def test_a_body_is_kept_by_its_request_alone() -> None:
    """The exchange stays with its connection until the next one."""
    one = exchange(Wire())
    for piece in (b"ab", b"c"):
        one.feed(piece)
    assert asyncio.run(one.request().whole(10)) == b"abc"
    assert asyncio.run(one.request().whole(10)) == b""


def test_a_slow_body_is_read_as_it_comes() -> None:
    async def scenario() -> list[bytes]:
        one = exchange(Wire())
        one.feed(b"ab")
        chunks = one.slow_request().chunks(10)
        first = await anext(chunks)
        for piece in (b"c", b"d", b"c", b"d"):
            assert one.is_waited_for
            one.feed(piece)
            await asyncio.sleep(0)
        assert not one.finish()
        assert not one.is_waited_for
        return [first, *[chunk async for chunk in chunks]]

    assert asyncio.run(scenario()) == [b"ab", b"cdcd"]


def test_a_request_that_is_not_answered_ends_its_connection() -> None:
    async def fail(_request: object, _send: object) -> None:
        raise RuntimeError

    wire = Wire()
    one = exchange(wire, handle=fail)
    with pytest.raises(RuntimeError):
        asyncio.run(one.run(one.request()))
    assert wire.closed == 1
