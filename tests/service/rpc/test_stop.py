"""The gRPC server's end: whoever is being answered gets the answer, and nobody else holds it up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

import grpc
import numpy as np
import pytest

from service.app import create_app
from service.rpc import open_inference_pb2 as pb
from service.rpc import server as rpc
from service.rpc.methods import Call
from service.settings import Settings
from tests.conftest import SIZE
from tests.service.rpc.conftest import PATH, echo, serving

REQUEST = pb.ModelInferRequest(id="seven")


def ask(channel: grpc.aio.Channel) -> Awaitable[pb.ModelInferResponse]:
    method = channel.unary_unary(PATH, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)
    call: Awaitable[pb.ModelInferResponse] = method(REQUEST)
    return call


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "QUIET_S", 0.05)


def test_a_request_that_is_never_handed_over_does_not_hold_up_the_end() -> None:
    async def nothing() -> AsyncIterator[pb.ModelInferRequest]:
        await asyncio.Event().wait()
        yield REQUEST

    async def play() -> None:
        async with serving(echo) as (server, channel):
            method = channel.stream_unary(PATH, pb.ModelInferRequest.SerializeToString)
            begun = method(nothing())
            await begun.wait_for_connection()
            await ask(channel)  # behind it on the same connection, so that it has arrived
            await server.stop()
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                await begun

    asyncio.run(play())


def test_requests_under_way_are_answered_however_quiet_it_is_meanwhile() -> None:
    async def play() -> None:
        asked, free = asyncio.Event(), asyncio.Event()

        async def held(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
            asked.set()
            await free.wait()
            return await echo(request, call)

        async with serving(held) as (server, channel):
            answer = asyncio.ensure_future(ask(channel))
            await asked.wait()
            stops = [asyncio.create_task(server.stop()) for _ in range(2)]
            done, _ = await asyncio.wait(stops, timeout=10 * rpc.QUIET_S)
            assert not done
            free.set()
            assert (await answer).id == "seven"
            await asyncio.gather(*stops)

    asyncio.run(play())


def test_an_end_that_is_not_to_wait_cuts_off_what_is_under_way() -> None:
    async def play() -> None:
        asked = asyncio.Event()

        async def held(_request: pb.ModelInferRequest, _call: Call) -> pb.ModelInferResponse:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        async with serving(held) as (server, channel):
            answer = asyncio.ensure_future(ask(channel))
            await asked.wait()
            stop = asyncio.create_task(server.stop())
            done, _ = await asyncio.wait([stop], timeout=10 * rpc.QUIET_S)
            assert not done
            server.abandon()
            await stop
            with pytest.raises(grpc.aio.AioRpcError):
                await answer

    asyncio.run(play())


def test_what_requests_need_is_there_until_the_last_is_answered(settings: Settings) -> None:
    app, rows = create_app(settings), np.zeros((2, SIZE, SIZE, 3), np.uint8)
    answered: list[int] = []

    class Stopping:
        async def stop(self) -> None:
            answer = await app.state.served.choose().batcher.submit(rows)
            answered.append(len(answer.probabilities))

    async def play() -> None:
        app.rpc = Stopping()  # type: ignore[assignment]
        async with app.router.lifespan_context(app):
            pass

    asyncio.run(play())
    assert answered == [2]
