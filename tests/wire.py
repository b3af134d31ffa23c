"""A server within the test's own event loop, and a client that writes HTTP/1.1 byte by byte as the test wants it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from service.app import Application, create_app
from service.server import Server
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
    status, headers, body = await read_plain(reader)
    return Answer(status, headers, json.loads(body))


async def read_plain(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    headers = {name.lower(): value for name, value in re.findall(r"(.+?): (.*)\r\n", head)}
    length = headers.get("content-length")
    return int(head.split()[1]), headers, await (reader.readexactly(int(length)) if length else reader.read())


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Client:
    """One connection."""

    def __init__(self, app: Application, server: Server, streams: Streams) -> None:
        self.app, self.server, (self.reader, self.writer) = app, server, streams

    async def ask(self, request: bytes) -> Answer:
        self.writer.write(request)
        return await read(self.reader)

    async def turns(self) -> None:
        """Let what was written be read at the other end: both are in this event loop."""
        for _ in range(20):
            await asyncio.sleep(0)


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


def counted(client: Client, status: int, route: str = "/v1/predict") -> float:
    total: float = client.app.state.metrics.total("convoy_requests_total", route, "POST", str(status))
    return total
