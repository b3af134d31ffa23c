"""A request's head and body, and what is refused while it is read."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from urllib.parse import parse_qsl

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from service.api import incoming as incoming_module
from service.api.body_room import SMALL_BYTES, BodyRoom
from service.api.incoming import TYPE_BYTES, Connection, Incoming, joined, positive, text
from service.errors import BodyTooLarge, DeadlineExceeded, MalformedRequest, Overloaded


def incoming(
    *chunks: bytes, headers: dict[bytes, bytes] | None = None, query: bytes = b"", cut: bool = False
) -> Incoming:
    messages: Iterator[Message] = iter(
        [
            *({"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks),
            {"type": "http.disconnect"} if cut else {"type": "http.request"},
        ]
    )

    async def receive() -> Message:
        return next(messages)

    return Incoming("/", headers or {}, query, receive, Connection())


def test_a_body_in_pieces_is_joined() -> None:
    assert asyncio.run(incoming(b"ab", b"", b"c").whole(3)) == b"abc"
    assert asyncio.run(incoming().whole(3)) == b""


@pytest.mark.parametrize(("declared", "expected"), [({}, [b"ab"]), ({b"content-length": b"4"}, [])])
def test_a_body_is_refused_as_soon_as_it_is_too_large(declared: dict[bytes, bytes], expected: list[bytes]) -> None:
    seen: list[bytes] = []

    async def read() -> None:
        async for chunk in incoming(b"ab", b"cd", b"ef", headers=declared).chunks(3):
            seen.append(chunk)

    with pytest.raises(BodyTooLarge):
        asyncio.run(read())
    assert seen == expected


def test_a_body_of_just_the_limit_is_taken_by_its_declared_length_too() -> None:
    assert asyncio.run(incoming(b"ab", b"c", headers={b"content-length": b"3"}).whole(3)) == b"abc"


@pytest.mark.parametrize("length", [b"many", b"-1", b"", "²".encode("latin-1")])
def test_a_length_that_is_no_number_is_not_believed(length: bytes) -> None:
    assert asyncio.run(incoming(b"ab", headers={b"content-length": length}).whole(3)) == b"ab"


@pytest.mark.parametrize(("digits", "declared"), [(b"0" * 5000, 0), (b"0" * 5000 + b"2", 2), (b"2", 2)])
def test_a_length_may_have_zeros_before_it(digits: bytes, declared: int) -> None:
    request = incoming(b"ab", headers={b"content-length": digits})
    assert (request.declared_bytes, asyncio.run(request.whole(3))) == (declared, b"ab")


def test_a_length_of_more_digits_than_python_reads_is_too_large() -> None:
    with pytest.raises(BodyTooLarge):
        asyncio.run(incoming(b"ab", headers={b"content-length": b"9" * 5000}).whole(3))


def test_bodies_that_are_kept_have_room_together() -> None:
    room, (first, second) = BodyRoom(5), (incoming(b"ab", b"cd"), incoming(b"ef"))
    first.room = second.room = room

    async def scenario() -> None:
        assert await first.whole(9) == b"abcd"
        with pytest.raises(Overloaded):
            await second.whole(9)
        first.let_go()
        first.let_go()
        third = incoming(b"gh")
        third.room = room
        assert await third.whole(9) == b"gh"
        fourth = incoming(b"ijkl")
        fourth.room = room
        with pytest.raises(Overloaded):  # what was let go twice was there once
            await fourth.whole(9)
        assert [piece async for piece in incoming(b"ijklmn").chunks(9)] == [b"ijklmn"]  # of which none is kept

    asyncio.run(scenario())


def test_a_small_body_that_is_there_already_needs_no_room() -> None:
    body = bytes(SMALL_BYTES)
    request = Incoming("/", {}, b"", body, Connection())
    request.room = BodyRoom(5)
    request.room.take(5)

    async def scenario() -> None:
        assert [piece async for piece in request.kept(len(body))] == [body]
        assert await request.whole(len(body)) == body

    asyncio.run(scenario())


def test_large_bodies_that_are_there_already_have_room_together() -> None:
    body = bytes(SMALL_BYTES + 1)
    room, requests = BodyRoom(2 * len(body)), [Incoming("/", {}, b"", body, Connection()) for _ in range(4)]
    for request in requests:
        request.room = room

    async def scenario() -> None:
        first, second, third, fourth = requests
        assert await first.whole(len(body)) is body  # without a copy
        assert [piece async for piece in second.kept(len(body))] == [body]
        with pytest.raises(Overloaded):
            await third.whole(len(body))
        third.let_go()  # which held nothing
        first.let_go()
        assert await fourth.whole(len(body)) == body
        with pytest.raises(Overloaded):
            await third.whole(len(body))

    asyncio.run(scenario())


def test_a_body_that_is_cut_off_is_no_body() -> None:
    with pytest.raises(ClientDisconnect):
        asyncio.run(incoming(b"ab", cut=True).whole(3))


def test_what_is_made_of_a_body_is_waited_for_no_longer_than_the_request_may_take() -> None:
    release = threading.Event()

    async def scenario() -> None:
        request = incoming(headers={b"x-request-timeout-ms": b"20"})
        assert await request.parsed(divmod, 7, 2) == (3, 1)
        request.deadline(1000)
        with pytest.raises(DeadlineExceeded):
            await request.parsed(release.wait, 30)

    try:
        asyncio.run(scenario())
    finally:
        release.set()


@pytest.mark.parametrize(("given", "allowed_s"), [(None, 60), (b"50000", 50), (b"70000", 60)])
def test_a_requests_time_runs_from_its_head_and_is_no_longer_than_the_services(
    given: bytes | None, allowed_s: float
) -> None:
    async def scenario() -> None:
        headers = {} if given is None else {b"x-request-timeout-ms": given}
        request = Incoming("/", headers, b"", b"", Connection(), began=time.perf_counter() - 20)
        left_s = request.deadline(60_000) - asyncio.get_running_loop().time()
        assert left_s == pytest.approx(allowed_s - 20, abs=2)  # or the machine has paused

    asyncio.run(scenario())


def test_a_body_that_does_not_come_is_waited_for_no_longer_than_the_request_may_take() -> None:
    async def scenario() -> None:
        never = asyncio.Event()

        async def receive() -> Message:
            await never.wait()
            return {"type": "http.request"}

        request = Incoming("/", {}, b"", receive, Connection())
        request.deadline(20)
        with pytest.raises(DeadlineExceeded, match="before all of its body was there; allow more time"):
            await request.whole(9)

    asyncio.run(scenario())


def test_a_body_that_is_there_already_is_limited_too() -> None:
    whole = Incoming("/", {}, b"", b"abc", Connection())
    assert asyncio.run(whole.whole(3)) == b"abc"
    with pytest.raises(BodyTooLarge):
        asyncio.run(whole.whole(2))


def test_headers_and_query_are_text() -> None:
    request = incoming(headers={b"accept": "ü".encode("latin-1")}, query=b"model=a%20b&top_k=1&top_k=2&version=")
    assert (text(request.headers.get(b"accept")), text(request.headers.get(b"host"))) == ("ü", None)
    assert [request.query(name) for name in ("model", "top_k", "version", "other")] == ["a b", "2", "", None]


def test_a_query_is_parsed_once_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def parse(query: str, *, keep_blank_values: bool) -> list[tuple[str, str]]:
        parsed.append(query)
        return parse_qsl(query, keep_blank_values=keep_blank_values)

    monkeypatch.setattr(incoming_module, "parse_qsl", parse)
    without, request = incoming(), incoming(query=b"model=a")
    assert (without.has_query, without.query("model"), request.has_query, parsed) == (False, None, True, [])
    without.check_query()
    request.check_query("model")
    assert (request.query("model"), request.query("version"), parsed) == ("a", None, ["model=a"])


def test_a_content_type_is_no_longer_than_can_be_parsed() -> None:
    assert incoming().content_type() == ""
    assert incoming(headers={b"content-type": b"x" * TYPE_BYTES}).content_type() == "x" * TYPE_BYTES
    with pytest.raises(MalformedRequest, match=r"^header Content-Type: it may have 1,024 bytes at most; send a"):
        incoming(headers={b"content-type": b"x" * (TYPE_BYTES + 1)}).content_type()


def test_fields_of_one_name_are_a_list() -> None:
    assert joined([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]) == {b"a": b"1, 3", b"b": b"2"}


def test_to_join_fields_takes_no_longer_for_each_the_more_there_are() -> None:
    compared = 0

    class Name(bytes):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return bytes(self) == other

        __hash__ = bytes.__hash__

    fields: list[tuple[bytes, bytes]] = [(Name(b"%d" % (number // 2)), b"") for number in range(2000)]
    assert len(joined(fields)) == 1000
    assert compared < 10 * len(fields)  # each with few others; with all others it would be a thousand times as many


def test_whole_numbers_from_one_up() -> None:
    assert (positive(None, "x"), positive("12", "x")) == (None, 12)
    for given in ("0", "-1", "1.5", "", "many", "²", "9" * 30):
        with pytest.raises(MalformedRequest, match=r"query x: send a whole number, 1 or more\."):
            positive(given, "query x")


def test_the_end_of_a_connection_ends_its_tasks() -> None:
    async def scenario() -> None:
        connection = Connection()
        assert not connection.ended
        task = asyncio.create_task(asyncio.sleep(60))
        connection.tasks.add(task)
        await asyncio.sleep(0)
        connection.end()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert connection.ended

    asyncio.run(scenario())
