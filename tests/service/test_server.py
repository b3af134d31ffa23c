"""What goes over the wire: requests past ASGI and through it, alone, one after the other, at once, and cut off."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from service import server as server_module
from service.app import Application, create_app
from service.server import Protocol, Server
from service.settings import Settings
from service.types import Probabilities, Rows
from tests.conftest import COLOURS, encode, picture

PNG = {colour: encode(picture(colour)) for colour in COLOURS}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def label(self) -> str:
        label: str = self.body["predictions"][0]["label"]
        return label


def wire(body: bytes = PNG["red"], *lines: str, start: str = "POST /v1/predict HTTP/1.1") -> bytes:
    head = [start, "Host: test", "Content-Type: image/png", f"Content-Length: {len(body)}", *lines]
    return "".join(line + "\r\n" for line in [*head, ""]).encode() + body


async def read(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    headers = {name.lower(): value for name, value in re.findall(r"(.+?): (.*)\r\n", head)}
    body = await reader.readexactly(int(headers["content-length"]))
    return Answer(int(head.split()[1]), headers, json.loads(body))


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Client:
    """One connection."""

    def __init__(self, app: Application, server: Server, streams: Streams) -> None:
        self.app, self.server, (self.reader, self.writer) = app, server, streams

    async def ask(self, request: bytes) -> Answer:
        self.writer.write(request)
        return await read(self.reader)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Client]:
    app, started = create_app(settings), asyncio.Event()
    server = Server(app, app.state.served, settings, announce=started.set)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = asyncio.create_task(server.serve([listener]))
        await asyncio.wait([running, asyncio.create_task(started.wait())], return_when=asyncio.FIRST_COMPLETED)
        streams = await asyncio.open_connection(*listener.getsockname())
        try:
            yield Client(app, server, streams)
        finally:
            streams[1].close()
            server.should_exit = True
            await running


def scenario(settings: Settings, play: Callable[[Client], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(60), serving(settings) as client:
            await play(client)

    asyncio.run(run())


def hold_engine(client: Client) -> tuple[asyncio.Event, asyncio.Event]:
    """The next batch waits: an event for its arrival, and one to let it run."""
    batcher = client.app.state.served.choose().batcher
    asked, free, run = asyncio.Event(), asyncio.Event(), batcher._run

    async def held(rows: Rows) -> Probabilities:
        asked.set()
        await free.wait()
        probabilities: Probabilities = await run(rows)
        return probabilities

    batcher._run = held
    return asked, free


def counted(client: Client, status: int) -> float:
    text = client.app.state.metrics.render().decode()
    found = re.search(rf'convoy_requests_total{{route="/v1/predict",method="POST",status="{status}"}} (\d+)', text)
    return float(found[1]) if found else 0


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
    monkeypatch.setattr(server_module, "DIRECT_BYTES", direct_bytes)

    async def play(client: Client) -> None:
        client.writer.write(wire(b"", "Host: test").replace(b"Length: 0", b"Length: 501"))  # and nothing more
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


@pytest.mark.parametrize("start", ["POST /v1/predict HTTP/1.1", "POST /v1/predict?top_k=1 HTTP/1.1"])
def test_what_cannot_be_answered_in_time_is_refused_at_once(settings: Settings, start: str) -> None:
    async def play(client: Client) -> None:
        batcher = client.app.state.served.choose().batcher
        asked, engine_is_free = hold_engine(client)
        address = client.writer.get_extra_info("peername")
        streams = [await asyncio.open_connection(*address) for _ in range(2)]
        for _, writer in streams:  # one is with the engine, one waits
            writer.write(wire(PNG["red"]))
            await asked.wait()
        while not batcher.queued_rows:
            await asyncio.sleep(0)
        batcher._pace.observe(1, 100.0)  # so long seems an inference to take
        for line in ("X-Request-Timeout-Ms: 20000", "X-Request-Timeout-Ms: 1"):
            answer = await client.ask(wire(PNG["red"], line, "X-Request-Id: mine", start=start))
            assert (answer.status, answer.body["type"]) == (504, "/problems/deadline-exceeded")
            assert answer.body["instance"] == answer.headers["x-request-id"] == "mine"
            assert int(answer.headers["retry-after"]) >= 10
        assert (await client.ask(wire(PNG["red"], "X-Request-Timeout-Ms: soon", start=start))).status == 400
        assert counted(client, 504) == 2
        engine_is_free.set()
        assert [(await read(reader)).label for reader, _ in streams] == ["red", "red"]
        for _, writer in streams:
            writer.close()

    scenario(settings, play)


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


def test_a_stop_lets_the_request_under_way_end_and_closes_its_connection(settings: Settings) -> None:
    async def play(client: Client) -> None:
        asked, engine_is_free = hold_engine(client)
        client.writer.write(wire(PNG["red"]))
        await asked.wait()
        (protocol,) = client.server.server_state.connections
        assert isinstance(protocol, Protocol)
        client.server.should_exit = True
        while protocol.cycle.keep_alive:
            await asyncio.sleep(0)
        engine_is_free.set()
        answer = await read(client.reader)
        assert (answer.label, answer.headers["connection"]) == ("red", "close")
        assert await client.reader.read() == b""

    scenario(settings, play)
