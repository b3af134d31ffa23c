"""The protocol's methods, without a port: what of their work keeps the event loop, and how much is taken in at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest
from google.protobuf.message import Message

from service.api.open_inference import descriptions
from service.api.uploads import INLINE_BYTES
from service.app import create_app
from service.errors import Overloaded, TooManyImages
from service.rpc import messages
from service.rpc import open_inference_pb2 as pb
from service.rpc.methods import Call
from service.settings import Settings
from tests.conftest import SIZE
from tests.service.conftest import noting_threads

IMAGE = pb.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=[1, SIZE, SIZE, 3])
REQUEST = pb.ModelInferRequest(model_name="colours", inputs=[IMAGE], raw_input_contents=[bytes(SIZE * SIZE * 3)])


def test_large_messages_are_read_and_images_counted_where_no_one_else_waits(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in threads of asyncio's own either, which may all wait for the disk of batches."""
    threads: list[str] = []
    monkeypatch.setattr(messages, "read", noting_threads(messages.read, threads))
    monkeypatch.setattr(descriptions, "counted", noting_threads(descriptions.counted, threads))

    async def scenario() -> None:
        app = create_app(settings.model_copy(update={"grpc_port": 0}))
        assert app.rpc
        answers = {name: answer for name, (_, answer) in app.rpc._methods.all().items()}
        async with app.router.lifespan_context(app):
            for nbytes in (INLINE_BYTES, INLINE_BYTES + 1):
                answer = await answers["ModelInfer"](REQUEST, Call(nbytes, left_s=60.0))
                assert answer.outputs[0].shape == [1, 3]
            answer = await answers["ModelStatistics"](pb.ModelStatisticsRequest(), Call(0, None))
            assert sorted(stats.inference_count for stats in answer.model_stats) == [0, 2]

    asyncio.run(scenario())
    assert threads == [threading.current_thread().name, "parse", "count"]


def test_messages_of_requests_under_way_have_room_together(settings: Settings) -> None:
    async def scenario() -> None:
        rpc = create_app(settings.model_copy(update={"grpc_port": 0, "queue_bytes": INLINE_BYTES + 15})).rpc
        assert rpc
        begun, free = asyncio.Event(), asyncio.Event()

        async def held(request: pb.ModelInferRequest, _call: Call) -> pb.ModelInferResponse:
            begun.set()
            await free.wait()
            return pb.ModelInferResponse(id=request.id)

        def reply(identity: str) -> Coroutine[Any, Any, Message]:
            content = pb.ModelInferRequest(id=identity).SerializeToString()
            return asyncio.wait_for(rpc._reply(pb.ModelInferRequest, content, held, None), 30)

        large = "1" * INLINE_BYTES
        first = asyncio.create_task(reply(large))
        await begun.wait()
        with pytest.raises(Overloaded):
            await reply(large)
        small = [asyncio.create_task(reply("")), asyncio.create_task(reply("1" * 15))]  # as probes are
        free.set()
        assert await first == await reply(large) == pb.ModelInferResponse(id=large)
        assert [await task for task in small] == [pb.ModelInferResponse(), pb.ModelInferResponse(id="1" * 15)]

    asyncio.run(scenario())


def test_a_message_of_too_many_parts_is_not_parsed(settings: Settings) -> None:
    async def never(_request: pb.ModelInferRequest, _call: Call) -> pb.ModelInferResponse:
        raise AssertionError("unreachable")

    async def scenario() -> None:
        rpc = create_app(settings.model_copy(update={"grpc_port": 0})).rpc
        assert rpc
        with pytest.raises(TooManyImages):
            await rpc._reply(pb.ModelInferRequest, b"\x3a\0" * INLINE_BYTES, never, None)

    asyncio.run(scenario())
