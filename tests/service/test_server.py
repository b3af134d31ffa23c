"""The server's end: whoever is being answered gets the answer."""

from __future__ import annotations

import asyncio

from service.protocol import Protocol
from service.settings import Settings
from tests.wire import PNG, Client, hold_engine, read, scenario, wire


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
