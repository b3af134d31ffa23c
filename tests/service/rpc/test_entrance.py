"""The gRPC server's entrance: who has no key is refused before there is a message of his to keep."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

import grpc
import pytest

from service import telemetry
from service.api.authentication import Keys
from service.api.request_log import RequestLog
from service.rpc import open_inference_pb2 as pb
from service.rpc import server as rpc
from service.rpc.methods import SERVICE
from tests.service.rpc.conftest import PATH, echo, serving

KEY = "0123456789abcdef"
KEYS = Keys([KEY])
UNKNOWN = ("x-api-key", "unknown")
MALFORMED = ("x-request-id", "not one")
MAX_CONCURRENT_STREAMS = 3  # in a SETTINGS frame: RFC 9113, 6.5.2


async def nothing() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


def refusal(path: str, *metadata: tuple[str, str], keys: Keys | None = KEYS) -> grpc.aio.AioRpcError:
    """What a client hears that begins a request and sends none of its message."""

    async def play() -> grpc.aio.AioRpcError:
        async with serving(echo, keys) as (server, channel):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.stream_unary(path)(nothing(), metadata=metadata)
            await server.stop()
            return raised.value

    return asyncio.run(play())


@pytest.mark.parametrize(
    ("metadata", "code", "told"),
    [
        ([], "UNAUTHENTICATED", "This service asks for a key; "),
        ([UNKNOWN], "UNAUTHENTICATED", "This key is not known here; "),
        ([MALFORMED], "INVALID_ARGUMENT", "header X-Request-Id: "),
    ],
    ids=["no key", "unknown key", "malformed id"],
)
def test_what_the_metadata_tell_is_refused_without_the_message(
    metadata: list[tuple[str, str]], code: str, told: str
) -> None:
    error = refusal(PATH, *metadata)
    assert (error.code().name, error.details()[: len(told)]) == (code, told)


def test_who_may_not_change_models_is_refused_without_the_message() -> None:
    assert refusal(f"/{SERVICE}/RepositoryModelLoad", keys=None).code().name == "PERMISSION_DENIED"


def test_a_refusal_keeps_its_id_and_is_counted_and_logged_as_any_request(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[tuple[object, ...]] = []

    def record(_log: RequestLog, route: str, method: str, path: str, status: int, _seconds: float) -> None:
        noted.append((route, method, path, status, telemetry.request_id.get()))

    monkeypatch.setattr(RequestLog, "record", record)
    assert list(refusal(PATH, ("x-request-id", "mine")).trailing_metadata()) == [("x-request-id", "mine")]
    assert noted == [(PATH, "POST", PATH, 401, "mine")]


def test_a_refused_request_whose_message_is_large_hears_why() -> None:
    async def play() -> None:
        async with serving(echo, KEYS) as (server, channel):
            with pytest.raises(grpc.aio.AioRpcError, match="asks for a key"):
                await channel.unary_unary(PATH)(bytes(32 << 20))
            await server.stop()

    asyncio.run(play())


@pytest.mark.parametrize(
    ("path", "metadata"),
    [
        (PATH, [("authorization", f"Bearer {KEY}")]),
        (PATH, [("x-api-key", KEY)]),
        (f"/{SERVICE}/ServerLive", []),
    ],
    ids=["bearer", "header of its own", "probe"],
)
def test_who_has_a_key_or_needs_none_is_answered(path: str, metadata: list[tuple[str, str]]) -> None:
    async def play() -> None:
        async with serving(echo, KEYS) as (server, channel):
            method = channel.unary_unary(path, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)
            assert (await method(pb.ModelInferRequest(id="seven"), metadata=metadata)).id == "seven"
            await server.stop()

    asyncio.run(play())


def test_requests_of_one_connection_have_a_bound() -> None:
    async def play() -> bytes:
        async with serving(echo) as (server, _):
            reader, writer = await asyncio.open_connection(server._settings.host, server._settings.grpc_port)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")  # no settings of its own
            length = int.from_bytes((await reader.readexactly(9))[:3], "big")  # each frame's head
            settings = await reader.readexactly(length)
            writer.close()
            await writer.wait_closed()
            await server.stop()
            return settings

    assert dict(struct.iter_unpack(">HI", asyncio.run(play())))[MAX_CONCURRENT_STREAMS] == rpc.STREAMS


def test_a_client_with_more_requests_than_that_has_all_answered() -> None:
    async def play() -> None:
        async with serving(echo) as (server, channel):
            method = channel.unary_unary(PATH, pb.ModelInferRequest.SerializeToString)
            await asyncio.gather(*(method(pb.ModelInferRequest()) for _ in range(10 * rpc.STREAMS)))
            await server.stop()

    asyncio.run(play())
