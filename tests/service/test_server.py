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


def test_who_asks_for_a_look_during_another_one_gets_one_after_it(settings: Settings) -> None:
    async def play(client: Client) -> None:
        begun, may_end = asyncio.Queue[int](), asyncio.Semaphore(0)

        async def look() -> None:
            begun.put_nowait(begun.qsize())
            await may_end.acquire()

        client.server._models.reload = look  # type: ignore[method-assign]
        client.server.reload()
        await begun.get()
        for _ in range(2):  # one more is enough for both: what they want seen is there when it begins
            client.server.reload()
        may_end.release()
        await begun.get()
        may_end.release()
        assert client.server._reloading
        await client.server._reloading
        assert begun.empty()

    scenario(settings, play)
