"""The gRPC server of a process that has no more than that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from service.api.authentication import AdminRight, Keys
from service.api.request_log import RequestLog
from service.counters import Counters
from service.listening import shared
from service.metrics import Metrics
from service.rpc import open_inference_pb2 as pb
from service.rpc.methods import SERVICE, Call
from service.rpc.server import RpcServer
from service.settings import Settings
from tests.conftest import clear_environment

Answer = Callable[[pb.ModelInferRequest, Call], Awaitable[pb.ModelInferResponse]]
PATH = f"/{SERVICE}/ModelInfer"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)


class Few:
    """Three methods that are answered alike: of each kind one, as to keys."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def all(self) -> dict[str, tuple[type[pb.ModelInferRequest], Answer]]:
        return dict.fromkeys(("ModelInfer", "ServerLive", "RepositoryModelLoad"), (pb.ModelInferRequest, self._answer))


async def echo(request: pb.ModelInferRequest, _call: Call) -> pb.ModelInferResponse:
    return pb.ModelInferResponse(id=request.id)


@asynccontextmanager
async def serving(answer: Answer, keys: Keys | None = None) -> AsyncIterator[tuple[RpcServer, grpc.aio.Channel]]:
    settings, metrics = Settings(drain_timeout_ms=60_000), Metrics(Counters.alone())
    async with asyncio.timeout(30):
        with shared(settings.host, 0) as port:
            settings = settings.model_copy(update={"grpc_port": port})
            log = RequestLog(metrics, "failed")
            server = RpcServer(Few(answer), settings, log, keys, AdminRight(None, keys))  # type: ignore[arg-type]
            await server.start()
            async with grpc.aio.insecure_channel(f"{settings.host}:{port}") as channel:
                yield server, channel
