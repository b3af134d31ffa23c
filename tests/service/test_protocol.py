"""What goes over the wire: requests past ASGI and through it, alone, one after the other, at once, and cut off."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service import protocol as protocol_module
from service.event_loop import Loop
from service.pace import Pace
from service.protocol import Protocol
from service.settings import Settings
from tests.conftest import COLOURS
from tests.wire import PNG, Client, counted, hold_engine, read, read_plain, scenario, serving, wire

PAST_ASGI = ["/v1/predict", "/v1/explain", "/v2/models/colours/infer", "/v2/models/colours/versions/2/infer"]


def test_requests_follow_each_other_on_one_connection(settings: Settings) -> None:
    async def play(client: Client) -> None:
        for colour in (*COLOURS, *COLOURS):
            answer = await client.ask(wire(PNG[colour], "X-Request-Id: mine"))
            assert (answer.status, answer.label) == (200, colour)
            assert answer.headers["x-request-id"] == "mine"
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["date"].endswith("GMT")
        assert counted(client, 200) == 6

    scenario(settings, play)


def test_every_way_of_sending_the_same_gets_the_same(settings: Settings) -> None:
    body = PNG["green"]
    chunked = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (10, body[:10], len(body) - 10, body[10:])
    head = b"POST /v1/predict HTTP/1.1\r\nHost: test\r\nContent-Type: image/png\r\n"
    ways = [
        wire(body),
        wire(body, start="POST /v1/predict?top_k=3 HTTP/1.1"),
        wire(body, start="POST http://test/v1/predict HTTP/1.1"),
        head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked,
    ]

    async def play(client: Client) -> None:
        answers = [await client.ask(way) for way in ways]
        assert [answer.status for answer in answers] == [200] * len(ways)
        probabilities = [answer.body["predictions"][0]["probabilities"] for answer in answers]
        assert all(each == probabilities[0] for each in probabilities)

    scenario(settings, play)


def test_the_other_protocols_requests_go_past_asgi_too(settings: Settings) -> None:
    """All but those whose path has to be decoded first: they are answered all the same."""
    images = [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(PNG["blue"]).decode()]}]
    body = json.dumps({"inputs": images, "outputs": [{"name": "probabilities"}]}).encode()

    async def play(client: Client) -> None:
        for model in ("colours", "colours/versions/2", "c%6flours"):
            answer = await client.ask(wire(body, start=f"POST /v2/models/{model}/infer HTTP/1.1"))
            assert answer.status == 200
            (output,) = answer.body["outputs"]
            assert max(output["data"]) == output["data"][COLOURS.index("blue")]
        for path, told in {
            "/v2/models/none/infer": "There is no such model",
            "/v2/models/a/b/infer": "nothing",
        }.items():
            answer = await client.ask(wire(body, start=f"POST {path} HTTP/1.1"))
            assert (answer.status, answer.headers["content-type"]) == (404, "application/json")
            assert told in answer.body["error"]
        assert counted(client, 200, "/v2/models/{model}/infer") == 2
        assert counted(client, 200, "/v2/models/{model}/versions/{version}/infer") == 1

    scenario(settings, play)


def test_a_body_that_comes_byte_by_byte_is_one_body(settings: Settings) -> None:
    async def play(client: Client) -> None:
        for byte in wire(PNG["blue"]):
            client.writer.write(bytes([byte]))
            await client.writer.drain()
        assert (await read(client.reader)).label == "blue"

    scenario(settings, play)


def test_pipelined_requests_are_answered_in_order(settings: Settings) -> None:
    async def play(client: Client) -> None:
        client.writer.write(b"".join(wire(PNG[colour]) for colour in (*COLOURS, *COLOURS, *COLOURS)))
        assert [(await read(client.reader)).label for _ in range(9)] == [*COLOURS, *COLOURS, *COLOURS]
        assert counted(client, 200) == 9

    scenario(settings, play)


@pytest.mark.parametrize(("start", "line"), [("HTTP/1.1", "Connection: close"), ("HTTP/1.0", "Accept: */*")])
def test_who_wants_the_connection_closed_gets_it_closed(settings: Settings, start: str, line: str) -> None:
    async def play(client: Client) -> None:
        answer = await client.ask(wire(PNG["red"], line, start=f"POST /v1/predict {start}"))
        assert (answer.label, answer.headers["connection"]) == ("red", "close")
        assert await client.reader.read() == b""

    scenario(settings, play)


def test_expect_100_continue_is_answered_before_the_body(settings: Settings) -> None:
    async def play(client: Client) -> None:
        client.writer.write(wire(b"", "Expect: 100-continue").replace(b"Length: 0", b"Length: %d" % len(PNG["red"])))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.ask(PNG["red"])).label == "red"

    scenario(settings, play)


def test_errors_are_problems_with_the_requests_id(settings: Settings) -> None:
    async def play(client: Client) -> None:
        for request, status, slug in [
            (wire(b"text", "X-Request-Id: mine"), 422, "invalid-image"),
            (wire(b"", "X-Request-Id: mine"), 422, "empty-request"),
            (
                wire(PNG["red"], "X-Request-Id: mine", start="POST /v1/predict?top_k=x HTTP/1.1"),
                400,
                "malformed-request",
            ),
            (wire(PNG["red"], "X-Request-Id: mine", start="PUT /v1/predict HTTP/1.1"), 405, "method-not-allowed"),
        ]:
            answer = await client.ask(request)
            assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
            assert (answer.body["type"], answer.body["instance"]) == (f"/problems/{slug}", "mine")
        assert (await client.ask(wire(PNG["red"]))).label == "red"

    scenario(settings, play)


@pytest.mark.parametrize("direct_bytes", [1 << 20, 100])
def test_too_large_bodies_are_refused_by_their_declared_length(
    settings: Settings, direct_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol_module, "DIRECT_BYTES", direct_bytes)

    async def play(client: Client) -> None:
        client.writer.write(wire(b"").replace(b"Length: 0", b"Length: 501"))  # and nothing more
        assert (await read(client.reader)).status == 413

    scenario(settings.model_copy(update={"max_body_bytes": 500}), play)


def test_a_client_that_is_gone_leaves_no_work_behind(settings: Settings) -> None:
    async def play(client: Client) -> None:
        batcher = client.app.state.served.choose().batcher
        asked, engine_is_free = hold_engine(client)
        address = client.writer.get_extra_info("peername")
        client.writer.write(wire(PNG["red"]))  # its image is with the engine
        await asked.wait()
        _, gone = await asyncio.open_connection(*address)
        gone.write(wire(PNG["green"]))  # its image waits
        while not batcher.queued_rows:
            await asyncio.sleep(0)
        gone.transport.abort()
        while batcher.queued_rows:
            await asyncio.sleep(0)
        engine_is_free.set()
        assert (await read(client.reader)).label == "red"
        assert (counted(client, 200), counted(client, 499)) == (1, 1)

    scenario(settings, play)


@asynccontextmanager
async def overloaded(client: Client, *lines: str) -> AsyncIterator[None]:
    """One image is with the engine, one waits, and an inference seems to take 100 s."""
    batcher = client.app.state.served.choose().batcher
    asked, engine_is_free = hold_engine(client)
    address = client.writer.get_extra_info("peername")
    streams = [await asyncio.open_connection(*address) for _ in range(2)]
    for _, writer in streams:
        writer.write(wire(PNG["red"], *lines))
        await asked.wait()
    while not batcher.queued_rows:
        await asyncio.sleep(0)
    batcher._pace = Pace()  # to which such a time is no mere pause
    batcher._pace.observe(1, 100.0)
    yield
    batcher._pace = Pace()
    engine_is_free.set()
    assert [(await read(reader)).label for reader, _ in streams] == ["red", "red"]
    for _, writer in streams:
        writer.close()


@pytest.mark.parametrize("start", ["POST /v1/predict HTTP/1.1", "POST /v1/predict?top_k=1 HTTP/1.1"])
def test_what_cannot_be_answered_in_time_is_refused_at_once(settings: Settings, start: str) -> None:
    async def play(client: Client) -> None:
        async with overloaded(client):
            for line in ("X-Request-Timeout-Ms: 20000", "x-request-timeout-ms:1", "X-Request-Timeout-Ms: 20000"):
                answer = await client.ask(wire(PNG["red"], line, "X-Request-Id: mine", start=start))
                assert (answer.status, answer.body["type"]) == (504, "/problems/deadline-exceeded")
                assert answer.body["instance"] == answer.headers["x-request-id"] == "mine"
                assert int(answer.headers["retry-after"]) >= 10
            assert (await client.ask(wire(PNG["red"], "X-Request-Timeout-Ms: soon", start=start))).status == 400
            assert counted(client, 504) == 3

    scenario(settings, play)


SOON = "X-Request-Timeout-Ms: 20000"  # sooner than `overloaded` lets hope, and later than any pause of the machine


@pytest.mark.parametrize(
    ("pieces", "statuses"),
    [
        ([wire(PNG["red"], SOON, "Connection: Keep-Alive", "Accept: */*")], [504]),
        ([wire(PNG["red"], SOON, "X-Request-Id: a b")], [504]),  # an id that is none is replaced, as everywhere
        ([wire(PNG["red"], SOON)[:20], wire(PNG["red"], SOON)[20:]], [504]),
        ([wire(PNG["red"], SOON)[:-20], wire(PNG["red"], SOON)[-20:]], [504]),
        ([wire(PNG["red"], SOON) * 3], [504] * 3),
        ([wire(PNG["red"], SOON) + b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"], [504, 200]),
        ([wire(PNG["red"], SOON, "Connection: close")], [504, None]),
        ([wire(PNG["red"], SOON, "Content-Length: 5")], [400, None]),
        ([wire(PNG["red"], SOON, "Transfer-Encoding: chunked")], [400, None]),
        ([wire(PNG["red"], SOON, "Bad Header: 1")], [400, None]),
        ([wire(PNG["red"], SOON, "Bad: a\nb: c")], [400, None]),
        ([b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"], [200]),
    ],
)
def test_while_requests_are_refused_every_message_is_what_it_would_be_otherwise(
    settings: Settings, pieces: list[bytes], statuses: list[int | None]
) -> None:
    async def play(client: Client) -> None:
        async with overloaded(client):
            assert (await client.ask(wire(PNG["red"], SOON))).status == 504
            assert client.app.direct.hottest.refusing
            for piece in pieces:
                client.writer.write(piece)
                await client.writer.drain()
                await client.turns()
            for status in statuses:
                if status is None:
                    assert await client.reader.read() == b""
                else:
                    assert (await read_plain(client.reader))[0] == status

    scenario(settings, play)


def test_when_there_is_time_again_the_next_request_is_answered(settings: Settings) -> None:
    async def play(client: Client) -> None:
        async with overloaded(client):
            assert (await client.ask(wire(PNG["red"], SOON))).status == 504
        assert client.app.direct.hottest.refusing
        assert (await client.ask(wire(PNG["blue"], SOON))).label == "blue"
        assert not client.app.direct.hottest.refusing

    scenario(settings, play)


def ring(client: Client) -> None:
    """Long after anything has happened on the connection, its timer rings."""
    (protocol,) = client.server.server_state.connections
    assert isinstance(protocol, Protocol)
    protocol._quiet_since -= 1000
    protocol.timeout_keep_alive_handler()


def test_an_idle_connection_is_closed_and_one_in_use_is_not(settings: Settings) -> None:
    async def play(client: Client) -> None:
        assert (await client.ask(wire(PNG["red"]))).label == "red"
        (protocol,) = client.server.server_state.connections
        assert isinstance(protocol, Protocol)
        protocol.timeout_keep_alive_handler()  # too early: the last reply was just now
        asked, engine_is_free = hold_engine(client)
        client.writer.write(wire(PNG["green"]))
        await asked.wait()
        ring(client)  # it waits for its answer, and has a while for the next request then
        engine_is_free.set()
        assert (await read(client.reader)).label == "green"
        protocol.timeout_keep_alive_handler()
        assert (await client.ask(wire(PNG["blue"]))).label == "blue"
        ring(client)
        assert await client.reader.read() == b""

    scenario(settings, play)


@pytest.mark.parametrize(
    "piece",
    [
        b"",
        wire()[:50],
        wire()[:-20],
        wire(start="POST /v1/predict?top_k=1 HTTP/1.1")[:-20],
        wire(b"PK\x03\x04" * 30, start="POST /v1/batches HTTP/1.1").replace(b"image/png", b"application/zip")[:-20],
    ],
    ids=["nothing", "half a head", "half a body", "half a body for ASGI", "half a batch"],
)
def test_a_client_that_does_not_go_on_loses_its_connection(settings: Settings, piece: bytes) -> None:
    async def play(client: Client) -> None:
        client.writer.write(piece)
        await client.turns()
        ring(client)
        assert await client.reader.read() == b""

    scenario(settings, play)


def test_a_body_whose_pieces_keep_coming_may_take_its_time(settings: Settings) -> None:
    async def play(client: Client) -> None:
        client.writer.write(wire(PNG["red"])[:-20])
        await client.turns()
        (protocol,) = client.server.server_state.connections
        assert isinstance(protocol, Protocol)
        protocol._quiet_since -= 1000
        client.writer.write(wire(PNG["red"])[-20:-10])
        await client.turns()
        protocol.timeout_keep_alive_handler()
        assert (await client.ask(wire(PNG["red"])[-10:])).label == "red"

    scenario(settings, play)


@pytest.mark.parametrize("start", ["POST /v1/predict?top_k=1 HTTP/1.1", "POST /v2/models/colours/infer HTTP/1.1"])
def test_a_large_body_is_waited_for_as_long_as_its_request_may_take(settings: Settings, start: str) -> None:
    async def play(client: Client) -> None:
        body = b"x" * (2 << 20)
        answer = await client.ask(wire(body, "X-Request-Timeout-Ms: 50", start=start)[:-20])
        assert answer.status == 504
        assert "before all of its body was there" in str(answer.body)

    scenario(settings, play)


@pytest.mark.parametrize("sent", [-20, -len(PNG["red"])], ids=["half a body", "a head alone"])
@pytest.mark.parametrize("start", ["POST /v1/predict HTTP/1.1", "POST /v2/models/colours/infer HTTP/1.1"])
def test_a_small_body_is_waited_for_no_longer_and_its_connection_ends(
    settings: Settings, start: str, sent: int
) -> None:
    async def play(client: Client) -> None:
        answer = await client.ask(
            wire(PNG["red"], "X-Request-Timeout-Ms: 50", "X-Request-Id: mine", start=start)[:sent]
        )
        assert (answer.status, answer.headers["x-request-id"], answer.headers["connection"]) == (504, "mine", "close")
        assert "before all of its body was there" in str(answer.body)
        assert await client.reader.read() == b""

    scenario(settings, play)


@pytest.mark.parametrize("path", PAST_ASGI)
def test_without_a_deadline_of_its_own_a_body_has_that_of_the_settings(settings: Settings, path: str) -> None:
    async def play(client: Client) -> None:
        assert (await client.ask(wire(PNG["red"], start=f"POST {path} HTTP/1.1")[:-20])).status == 504

    scenario(settings.model_copy(update={"request_timeout_ms": 50}), play)


async def send_slowly(client: Client, request: bytes) -> Protocol:
    """All but the end of it, until its route waits for that."""
    client.writer.write(request[:-20])
    await client.turns()
    (protocol,) = client.server.server_state.connections
    assert isinstance(protocol, Protocol)
    protocol.timeout_keep_alive_handler()
    await client.turns()
    return protocol


def test_a_slow_body_that_comes_in_time_is_answered_once_and_so_is_the_next(settings: Settings) -> None:
    async def play(client: Client) -> None:
        for colour in ("red", "green"):
            protocol = await send_slowly(client, wire(PNG[colour]))
            protocol.timeout_keep_alive_handler()
            protocol.cut_off()  # its route says it, if at all
            assert (await client.ask(wire(PNG[colour])[-20:])).label == colour
        assert (await client.ask(wire(PNG["blue"]))).label == "blue"
        assert counted(client, 200) == 3

    scenario(settings, play)


def test_a_slow_body_that_is_not_wanted_is_read_so_that_its_sender_sees_why(settings: Settings) -> None:
    async def play(client: Client) -> None:
        unwanted = wire(PNG["red"]).replace(b"image/png", b"text/plain")
        await send_slowly(client, unwanted)
        assert (await read(client.reader)).status == 415
        assert (await client.ask(unwanted[-20:] + wire(PNG["blue"]))).label == "blue"

    scenario(settings, play)


def test_slow_bodies_have_room_together_and_what_is_refused_is_not_kept(settings: Settings) -> None:
    async def play(client: Client) -> None:
        await send_slowly(client, wire(PNG["red"]))
        refused, late = await asyncio.open_connection(*client.writer.get_extra_info("peername"))
        late.write(wire(PNG["blue"])[:-20])
        assert (await read(refused)).status == 503
        kept = [each for each in client.server.server_state.connections if isinstance(each, Protocol) and each._direct]
        assert len(kept) == 1
        late.write(wire(PNG["blue"])[-20:-10])
        assert (await client.ask(wire(PNG["red"])[-20:])).label == "red"
        late.write(wire(PNG["blue"])[-10:] + wire(PNG["green"]))
        assert (await read(refused)).label == "green"
        late.close()

    scenario(settings.model_copy(update={"queue_bytes": len(PNG["red"])}), play)


def test_a_client_that_goes_in_the_midst_of_a_slow_body_is_counted(settings: Settings) -> None:
    async def play(client: Client) -> None:
        protocol = await send_slowly(client, wire(PNG["red"]))
        client.writer.transport.abort()
        while protocol in client.server.server_state.connections or protocol.tasks:
            await asyncio.sleep(0)
        assert counted(client, 499) == 1

    scenario(settings, play)


@pytest.mark.parametrize("line", [b"A: " + b"b" * 1000 + b"\r\n", b"x" * 1000])
def test_a_head_without_end_is_refused(settings: Settings, line: bytes) -> None:
    async def play(client: Client) -> None:
        client.writer.write(b"POST /v1/predict HTTP/1.1\r\n")
        await client.turns()
        for _ in range(protocol_module.HEAD_BYTES // len(line) + 2):
            client.writer.write(line)
            await client.writer.drain()
            await client.turns()
        status, headers, _ = await read_plain(client.reader)
        assert (status, headers["connection"]) == (400, "close")

    scenario(settings, play)


def test_more_fields_than_anybody_needs_are_refused(settings: Settings) -> None:
    """They cost nobody's key; a few kilobytes of them would keep the process busy."""

    async def play(client: Client) -> None:
        most = "A: b\r\n" * (protocol_module.MOST_FIELDS - 3)  # `wire` has three
        for fields, status in ((most[:-2], 200), (most + "A: b", 400)):
            for start in ("POST /v1/predict?top_k=3 HTTP/1.1", "POST /v1/predict HTTP/1.1"):
                reader, writer = await asyncio.open_connection(*client.writer.get_extra_info("peername"))
                writer.write(wire(PNG["red"], *fields.split("\r\n"), start=start))
                answer = await read(reader)
                assert answer.status == status
                if status == 400:
                    assert answer.body["detail"] == protocol_module.HEAD_TOO_LONG
                writer.close()

    scenario(settings, play)


@pytest.mark.parametrize("line", [b"A:b\r\n" * 200, b"x" * 1000], ids=["fields", "one field"])
def test_fields_behind_a_body_are_not_kept_and_end(settings: Settings, line: bytes) -> None:
    """A client could fill the memory with them: nothing has looked at the request's size or key by then."""
    head = wire(start="POST /v1/predict?top_k=1 HTTP/1.1").split(b"Content-Length")[0]

    async def play(client: Client) -> None:
        client.writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        await client.turns()
        (protocol,) = client.server.server_state.connections
        assert isinstance(protocol, Protocol)
        kept = len(protocol.headers)
        for _ in range(protocol_module.HEAD_BYTES // len(line) + 2):
            client.writer.write(line)
            await client.writer.drain()
            await client.turns()
        assert len(protocol.headers) == kept
        status, headers, _ = await read_plain(client.reader)
        assert (status, headers["connection"]) == (400, "close")
        assert await client.reader.read() == b""

    scenario(settings, play)


def test_a_body_with_fields_behind_it_is_answered(settings: Settings) -> None:
    head = wire(start="POST /v1/predict?top_k=1 HTTP/1.1").split(b"Content-Length")[0]
    chunk = b"%x\r\n%b\r\n" % (len(PNG["red"]), PNG["red"])

    async def play(client: Client) -> None:
        whole = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\nX-Request-Id: other\r\n\r\n"
        answer = await client.ask(whole)
        assert (answer.status, answer.label) == (200, "red")
        assert answer.headers["x-request-id"] != "other"

    scenario(settings, play)


def test_blanks_around_a_value_are_no_part_of_it(settings: Settings) -> None:
    lines = ("X-Request-Id: \t mine \t ", "X-Request-Timeout-Ms: 5000 ", "Content-Encoding: identity\t")

    async def play(client: Client) -> None:
        for start in ("POST /v1/predict HTTP/1.1", "POST /v1/predict?top_k=3 HTTP/1.1"):
            answer = await client.ask(wire(PNG["green"], *lines, start=start))
            assert (answer.status, answer.headers["x-request-id"]) == (200, "mine")

    scenario(settings, play)


@pytest.mark.parametrize(
    "request_",
    [
        b"\x00\x01garbage\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: test\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: test\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST /v1/batches HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.0\r\nHost: test\r\nHost: test\r\n\r\n",
        wire().replace(b"Host: test\r\n", b""),
        wire(PNG["red"], "host: other"),
    ],
)
def test_what_is_no_request_is_told_so_as_everything_else_is(settings: Settings, request_: bytes) -> None:
    async def play(client: Client) -> None:
        answer = await client.ask(request_)
        assert (answer.status, answer.body["type"]) == (400, "/problems/malformed-request")
        assert answer.body["detail"] == protocol_module.NO_REQUEST
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-request-id"] == answer.body["instance"]
        assert await client.reader.read() == b""

    scenario(settings, play)


def test_a_request_of_http_1_0_need_not_say_whom_it_is_for(settings: Settings) -> None:
    async def play(client: Client) -> None:
        request = wire(PNG["red"], start="POST /v1/predict HTTP/1.0").replace(b"Host: test\r\n", b"")
        assert (await client.ask(request)).label == "red"

    scenario(settings, play)


def test_what_is_no_request_is_counted_and_clients_of_the_other_protocol_are_told_in_its_words(
    settings: Settings,
) -> None:
    async def play(client: Client) -> None:
        answer = await client.ask(b"GET /v2/models HTTP/1.1\r\nbad header\r\n\r\n")
        assert (answer.status, answer.body) == (400, {"error": protocol_module.NO_REQUEST})
        assert client.app.state.metrics.total("convoy_requests_total", "other", "GET", "400") == 1

    scenario(settings, play)


@pytest.mark.parametrize("start", ["POST /v1/predict HTTP/1.1", "POST /v1/predict?top_k=3 HTTP/1.1"])
@pytest.mark.parametrize("garbage", [b"\x00\x01", b"GET / HTTP/1.1\r\nbad header\r\n\r\n"])
def test_what_comes_behind_a_request_does_not_stand_in_its_answers_place(
    settings: Settings, start: str, garbage: bytes
) -> None:
    async def play(client: Client) -> None:
        asked, engine_is_free = hold_engine(client)
        client.writer.write(wire(PNG["red"], start=start))
        await asked.wait()
        client.writer.write(garbage)
        await client.turns()
        client.writer.write(wire(PNG["blue"]))
        await client.turns()
        engine_is_free.set()
        answer = await read(client.reader)
        assert (answer.label, answer.headers["connection"]) == ("red", "close")
        assert await client.reader.read() == b""

    scenario(settings, play)


@pytest.mark.skipif(protocol_module.UNREAD_FOR is None, reason="Linux ends such connections, other systems don't")
def test_a_client_that_does_not_read_loses_its_connection(settings: Settings) -> None:
    async def play(client: Client) -> None:
        assert isinstance(client.writer.transport, asyncio.Transport)
        client.writer.transport.pause_reading()
        (protocol,) = client.server.server_state.connections
        assert isinstance(protocol, Protocol)
        while not protocol.flow.write_paused:
            client.writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: test\r\n\r\n" * 20)
            await asyncio.sleep(0.01)
        while protocol in client.server.server_state.connections:
            await asyncio.sleep(0.1)

    scenario(settings.model_copy(update={"keep_alive_ms": 1000}), play)


def test_a_client_that_reads_slowly_gets_everything(settings: Settings) -> None:
    """Longer than an idle connection stays open; what it is sent waits in the system's buffers as well as here."""

    async def play(client: Client) -> None:
        assert isinstance(client.writer.transport, asyncio.Transport)
        (protocol,) = client.server.server_state.connections
        assert isinstance(protocol, Protocol)
        client.writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: test\r\n\r\n" * 100)
        for _ in range(99):
            await read_plain(client.reader)
            protocol._quiet_since -= 1000
            protocol.timeout_keep_alive_handler()
            await asyncio.sleep(0.001)
        assert (await read_plain(client.reader))[0] == 200

    scenario(settings, play)


@pytest.mark.parametrize("start", ["POST /v1/predict HTTP/1.1", "POST /v1/predict?top_k=3 HTTP/1.1"])
@pytest.mark.parametrize(
    "second",
    [
        b"POST /v1/predict HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    ],
    ids=["a damaged body", "another protocol"],
)
def test_the_second_of_two_in_one_piece_has_its_400_in_its_turn(settings: Settings, start: str, second: bytes) -> None:
    async def play(client: Client) -> None:
        client.writer.write(wire(PNG["red"], start=start) + second)
        assert (await read(client.reader)).label == "red"
        answer = await read(client.reader)
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert await client.reader.read() == b""

    scenario(settings, play)


def test_a_wish_for_another_protocol_is_ignored_and_the_body_is_not(settings: Settings) -> None:
    """As curl --http2 and Java's client express it."""
    lines = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAA")

    async def play(client: Client) -> None:
        for start in ("POST /v1/predict HTTP/1.1", "POST /v1/predict?top_k=3 HTTP/1.1"):
            assert (await client.ask(wire(PNG["green"], *lines, start=start))).label == "green"
        assert (await client.ask(wire(PNG["blue"]))).label == "blue"

    scenario(settings, play)


@pytest.mark.parametrize(
    ("first", "second"),
    [(b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"), (b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"")],
)
def test_what_follows_a_wish_for_another_protocol_is_never_taken_for_a_request(
    first: bytes, second: bytes, settings: Settings
) -> None:
    inner = b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"
    head = b"POST /v1/predict HTTP/1.1\r\nHost: test\r\nContent-Type: image/png\r\nContent-Length: %d\r\n" % len(inner)

    async def play(client: Client) -> None:
        client.writer.write(head + first)
        await client.turns()
        client.writer.write(second + b"\r\n" + inner)
        status, headers, _ = await read_plain(client.reader)
        assert (status, headers.get("connection")) == ((400, "close") if second else (422, None))
        if second:
            assert await client.reader.read() == b""

    scenario(settings, play)


def test_every_answer_of_a_process_that_drains_ends_its_connection(settings: Settings) -> None:
    async def play(client: Client) -> None:
        client.app.state.served.draining = True
        client.writer.write(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n")
        status, headers, _ = await read_plain(client.reader)
        assert (status, headers["connection"]) == (200, "close")
        assert await client.reader.read() == b""

    scenario(settings, play)


def test_fields_of_one_name_are_one_list(settings: Settings) -> None:
    async def play(client: Client) -> None:
        for start in ("POST /v1/predict HTTP/1.1", "POST /v1/predict?top_k=3 HTTP/1.1"):
            lines = ("Accept: application/json", "Accept: text/html")
            assert (await client.ask(wire(PNG["green"], *lines, start=start))).status == 200

    scenario(settings, play)


@pytest.mark.parametrize("path", PAST_ASGI)
def test_what_goes_past_asgi_needs_a_key_too(settings: Settings, tmp_path: Path, path: str) -> None:
    (tmp_path / "keys").write_text("a-key-of-a-client\n")

    async def play(client: Client) -> None:
        for line, refused in (("X-API-Key: of nobody", True), ("A: b", True), ("X-API-Key: a-key-of-a-client", False)):
            answer = await client.ask(wire(PNG["red"], line, start=f"POST {path} HTTP/1.1"))
            assert (answer.status == 401) == refused

    scenario(settings.model_copy(update={"api_keys_file": tmp_path / "keys"}), play)


def test_how_busy_the_service_is_is_not_told_without_a_key(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a-key-of-a-client\n")
    keyed = settings.model_copy(update={"api_keys_file": tmp_path / "keys"})

    async def play(client: Client) -> None:
        async with overloaded(client, "X-API-Key: a-key-of-a-client"):
            for line, status in (("X-API-Key: a-key-of-a-client", 504), ("X-API-Key: of nobody", 401), ("A: b", 401)):
                for _ in range(2):  # the second is judged by its head, where requests are being refused
                    assert (await client.ask(wire(PNG["red"], SOON, line))).status == status

    scenario(keyed, play)


def test_a_request_that_is_cut_off_disturbs_nobody(settings: Settings) -> None:
    async def play(client: Client) -> None:
        address = client.writer.get_extra_info("peername")
        for end in (10, -1):
            reader, cut = await asyncio.open_connection(*address)
            cut.write(wire(PNG["red"])[:end])
            cut.write_eof()
            cut.close()
            assert await reader.read() == b""
        assert (await client.ask(wire(PNG["blue"]))).label == "blue"

    scenario(settings, play)


def test_of_many_requests_at_once_each_costs_as_much_as_of_few(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who goes through all that wait at each one more keeps everybody else waiting for seconds."""
    looks = 0

    class Cycle(RequestResponseCycle):
        def __getattribute__(self, name: str) -> object:
            nonlocal looks
            looks += name == "response_complete"
            return super().__getattribute__(name)

    monkeypatch.setattr(httptools_impl, "RequestResponseCycle", Cycle)
    count = 300

    async def play(client: Client) -> None:
        client.writer.write(b"GET /v1/models HTTP/1.1\r\nHost: test\r\n\r\n" * count)
        for _ in range(count):
            assert (await read(client.reader)).status == 200
        assert count < looks < 20 * count

    scenario(settings, play)


def test_a_client_that_goes_with_several_requests_under_way_is_nobodys_fault(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Each learns that there is no one to answer: a write to a connection that has ended is an error to uvloop."""
    head = b"POST /v1/predict HTTP/1.1\r\nHost: test\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    through_asgi = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(PNG["red"]), PNG["red"])

    async def play() -> None:
        async with asyncio.timeout(60), serving(settings) as client:
            asked, engine_is_free = hold_engine(client)
            client.writer.write(2 * through_asgi)
            await asked.wait()
            client.writer.transport.abort()
            while not counted(client, 499):
                await asyncio.sleep(0)
            engine_is_free.set()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(play())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
