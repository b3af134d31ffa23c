"""The server's end: whoever is being answered gets the answer."""

from __future__ import annotations

import asyncio
import logging
import signal
from unittest.mock import AsyncMock, Mock, call

import pytest
import uvicorn

from service.channel import Message
from service.protocol import Protocol
from service.server import Server, WorkerServer
from service.settings import Settings
from tests.wire import PNG, Client, counted, hold_engine, read, scenario, wire

CHUNKED = (
    "POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: image/png\r\nX-Request-Id: mine\r\n"
    "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
)


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


def test_a_hangup_during_the_start_is_heard_after_it(settings: Settings) -> None:
    async def play(client: Client) -> None:
        assert client.server._reloading
        await client.server._reloading

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    signal.raise_signal(signal.SIGHUP)
    try:
        scenario(settings, play)
    finally:
        assert not signal.sigtimedwait([signal.SIGHUP], 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])


@pytest.mark.parametrize("outcome", [None, RuntimeError("can't start new thread")])
def test_the_parent_hears_of_the_end_of_every_look(outcome: Exception | None) -> None:
    async def play() -> None:
        channel, models = Mock(), Mock(reload=AsyncMock(side_effect=outcome))
        worker = WorkerServer(Mock(), models, Settings(), channel, Mock())
        for count in (1, 2):
            worker._hear(Message.RELOAD, None)
            assert worker._reloading
            await asyncio.wait([worker._reloading])
            assert worker._reloading.exception() is outcome
            assert channel.send.call_args_list == [call(Message.RELOADED)] * count

    asyncio.run(play())


def test_only_the_parent_has_a_worker_look_at_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        await WorkerServer(Mock(), Mock(), Settings(), Mock(), Mock()).startup()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN

    monkeypatch.setattr(uvicorn.Server, "startup", AsyncMock())
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `service.worker` does
    try:
        asyncio.run(play())
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_only_the_parent_stops_a_worker(number: signal.Signals) -> None:
    models = Mock(draining=False)
    worker = WorkerServer(Mock(), models, Settings(), Mock(), Mock())
    worker.handle_exit(number, None)
    assert (models.draining, worker.should_exit) == (False, False)
    worker._hear(Message.STOP, None)
    assert (models.draining, worker.should_exit, worker.force_exit) == (True, True, False)
    worker._hear(Message.ABANDON, None)
    assert worker.force_exit


async def told_at_the_end(client: Client, route: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever waits when the time is up."""
    client.server.handle_exit(signal.SIGTERM, None)
    answer = await read(client.reader)
    assert (answer.status, answer.body["type"], answer.body["instance"]) == (503, "/problems/draining", "mine")
    assert answer.body["detail"].endswith("send the request to another instance.")
    assert (answer.headers["x-request-id"], answer.headers["retry-after"]) == ("mine", "1")
    assert answer.headers["connection"] == "close"
    assert await client.reader.read() == b""
    assert counted(client, 503, route) == 1
    assert not [record.message for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("route", "sent"),
    [
        ("/v1/predict", wire(PNG["red"], "X-Request-Id: mine")[:-1]),
        ("/v1/predict", CHUNKED.format(path="/v1/predict").encode()),
        ("/v1/batches", CHUNKED.format(path="/v1/batches").replace("image/png", "application/zip").encode()),
    ],
    ids=["past ASGI", "by ASGI", "by the framework"],
)
def test_a_request_that_is_not_whole_when_the_time_is_up_is_told_so(
    settings: Settings, caplog: pytest.LogCaptureFixture, route: str, sent: bytes
) -> None:
    async def play(client: Client) -> None:
        client.writer.write(sent)
        (protocol,) = client.server.server_state.connections
        assert isinstance(protocol, Protocol)
        while not protocol.cycle:
            await asyncio.sleep(0)
        await told_at_the_end(client, route, caplog)

    scenario(settings.model_copy(update={"drain_timeout_ms": 50}), play)


@pytest.mark.parametrize("before", [b"", wire(PNG["red"])], ids=["its first", "another one"])
@pytest.mark.parametrize("drain_timeout_ms", [50, 30_000])
def test_a_head_that_is_not_whole_when_the_process_stops_is_told_so(
    settings: Settings, before: bytes, drain_timeout_ms: int
) -> None:
    async def play(client: Client) -> None:
        if before:
            assert (await client.ask(before)).label == "red"
        client.writer.write(wire(PNG["red"])[:40])
        (protocol,) = client.server.server_state.connections
        assert isinstance(protocol, Protocol)
        while not protocol._in_head:
            await asyncio.sleep(0)
        client.server.handle_exit(signal.SIGTERM, None)
        answer = await read(client.reader)
        assert (answer.status, answer.body["type"]) == (503, "/problems/draining")
        assert answer.headers["connection"] == "close"
        assert answer.body["instance"] == answer.headers["x-request-id"]
        assert await client.reader.read() == b""
        assert counted(client, 503, "other") == 1

    scenario(settings.model_copy(update={"drain_timeout_ms": drain_timeout_ms}), play)


def test_a_head_that_becomes_whole_while_the_process_stops_is_answered(settings: Settings) -> None:
    async def play(client: Client) -> None:
        assert (await client.ask(wire(PNG["red"]))).label == "red"
        client.writer.write(wire(PNG["green"])[:40])
        (protocol,) = client.server.server_state.connections
        assert isinstance(protocol, Protocol)
        while not protocol._in_head:
            await asyncio.sleep(0)
        client.app.state.served.draining = True
        protocol.shutdown()
        answer = await client.ask(wire(PNG["green"])[40:])
        assert (answer.label, answer.headers["connection"]) == ("green", "close")

    scenario(settings, play)


def test_a_request_that_waits_for_the_engine_when_the_time_is_up_is_told_so(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(client: Client) -> None:
        asked, _ = hold_engine(client)
        client.writer.write(wire(PNG["red"], "X-Request-Id: mine"))
        await asked.wait()
        await told_at_the_end(client, "/v1/predict", caplog)

    scenario(settings.model_copy(update={"drain_timeout_ms": 50}), play)


@pytest.mark.parametrize(("given_ms", "kept_s"), [(1999, 1.999), (250, 0.25), (0, 0.001)])
def test_the_time_to_drain_is_kept_to_the_millisecond(given_ms: int, kept_s: float) -> None:
    server = Server(Mock(), Mock(), Settings(drain_timeout_ms=given_ms), announce=Mock())
    assert server.config.timeout_graceful_shutdown == kept_s


def test_without_time_to_drain_nothing_is_cut_off_where_nothing_runs(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(client: Client) -> None:
        assert (await client.ask(wire(PNG["red"]))).label == "red"

    with caplog.at_level(logging.ERROR):
        scenario(settings.model_copy(update={"drain_timeout_ms": 0}), play)
    assert not caplog.records
