"""The gRPC server of one process: what every request has around its method, and the port.

Ids, keys, counts and log lines are those of HTTP, under the method's path; errors have gRPC's codes, and the sentence
that HTTP's would have. Processes share the port (SO_REUSEPORT), so each connection belongs to one of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from operator import methodcaller
from typing import NamedTuple

import grpc
from google.protobuf.message import DecodeError, Message

from service import shares, telemetry
from service.api import problems
from service.api.authentication import AdminRight, Keys
from service.api.body_room import BodyRoom
from service.api.request_log import HEADER, UNEXPECTED, RequestLog, identify
from service.api.uploads import INLINE_BYTES
from service.errors import MalformedRequest, ServiceError
from service.rpc import extent
from service.rpc.methods import FOR_ADMINS, PROBES, SERVICE, Answer, Call, Methods
from service.settings import Settings

CODES = {
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    HTTPStatus.INTERNAL_SERVER_ERROR: grpc.StatusCode.INTERNAL,
    HTTPStatus.INSUFFICIENT_STORAGE: grpc.StatusCode.INTERNAL,
}  # all others: INVALID_ARGUMENT
RETRY = "grpc-retry-pushback-ms"  # when a client may try again: gRPC's proposal A6
QUIET_S = 5.0  # while stopping: gRPC may never hand over a request that arrives as it stops, nor a message half sent
STREAMS = 100  # requests of one connection at a time, each with a message in memory; a client lets others wait
SERIALIZE = methodcaller("SerializeToString")
Metadata = Iterable[tuple[str, str | bytes]]
logger = logging.getLogger(__name__)


class Entry(NamedTuple):
    """What is known of a request before its message is there."""

    identity: bytes
    key: bytes | None  # the digest of its key, where one is needed
    refusal: ServiceError | None


class Entrance(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC has no types
    """Path → what answers a request there, chosen by its metadata: a message may be large, and long in coming."""

    def __init__(self, methods: dict[str, Callable[[Metadata], grpc.RpcMethodHandler]]) -> None:
        self._methods = methods

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """What gRPC asks of each request."""
        method = self._methods.get(handler_call_details.method)
        return method(handler_call_details.invocation_metadata or ()) if method else None


class RpcServer:
    """Serves `methods` on `settings.grpc_port` from `start` to `stop`."""

    def __init__(
        self, methods: Methods, settings: Settings, log: RequestLog, keys: Keys | None, right: AdminRight
    ) -> None:
        self._methods, self._settings, self._log, self._keys, self._right = methods, settings, log, keys, right
        self._room = BodyRoom(settings.queue_bytes)
        self._server: grpc.aio.Server | None = None
        self._stopping: asyncio.Future[None] | None = None
        self._abandoning: asyncio.Future[None] | None = None
        self._begun = self._ended = 0  # requests

    async def start(self) -> None:
        """Begin to answer; raises `RuntimeError` when the port can't be had."""
        settings = self._settings
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_concurrent_streams", STREAMS),
                ("grpc.http.overload_protection", 0),  # counts ended ones too, and refuses those of patient clients
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                ("grpc.max_send_message_length", -1),
            ]
        )
        methods = {f"/{SERVICE}/{name}": self._method(name, *known) for name, known in self._methods.all().items()}
        self._server.add_generic_rpc_handlers((Entrance(methods),))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._server.add_insecure_port(f"{host}:{settings.grpc_port}")
        await self._server.start()

    async def stop(self) -> None:
        """Take no more requests, and let those under way finish; it can be awaited by several."""
        if self._server:
            self._stopping = self._stopping or asyncio.ensure_future(self._stop(self._server))
            await asyncio.shield(self._stopping)

    def abandon(self) -> None:
        """Cut off what is under way, so that `stop` has nothing to wait for."""
        if self._server:
            self._abandoning = asyncio.ensure_future(self._server.stop(None))

    async def _stop(self, server: grpc.aio.Server) -> None:
        stopped = asyncio.ensure_future(server.stop(self._settings.drain_timeout_ms / 1000))
        quiet = False
        while not quiet:
            begun, under_way = self._begun, self._begun - self._ended
            if (await asyncio.wait([stopped], timeout=QUIET_S))[0]:
                return
            quiet = not under_way and self._begun == begun  # none was under way, and none has come since
        await server.stop(None)
        await stopped

    def _method(self, name: str, request: type[Message], answer: Answer) -> Callable[[Metadata], grpc.RpcMethodHandler]:
        """`answer`, with what every request has: an id, perhaps a key, a count, a log line, an error's code."""
        path = f"/{SERVICE}/{name}"

        async def method(entry: Entry, content: bytes, context: grpc.aio.ServicerContext) -> Message:
            began = time.perf_counter()
            self._begun += 1
            context.add_done_callback(self._answered)
            telemetry.request_id.set(entry.identity.decode())  # of this task alone
            status = problems.CLIENT_CLOSED_REQUEST  # whose task is cancelled
            try:
                if entry.refusal:
                    raise entry.refusal
                shares.client.set(entry.key or context.peer().rpartition(":")[0].encode())
                reply: Message | ServiceError = await self._reply(request, content, answer, context.time_remaining())
                status = int(HTTPStatus.OK)
            except ServiceError as exc:
                reply, status = exc, int(exc.status)
            except Exception:
                logger.exception("unexpected error")
                reply, status = UNEXPECTED, int(UNEXPECTED.status)
            finally:
                self._log.record(path, "POST", path, status, time.perf_counter() - began)
            return await _sent(reply, entry, context)

        def chosen(metadata: Metadata) -> grpc.RpcMethodHandler:
            entry = self._enter(name, metadata)
            if entry.refusal:  # as if it had a stream of messages, of which none is read
                return grpc.stream_unary_rpc_method_handler(partial(method, entry))
            return grpc.unary_unary_rpc_method_handler(partial(method, entry), response_serializer=SERIALIZE)

        return chosen

    def _enter(self, name: str, metadata: Metadata) -> Entry:
        headers = {key.encode(): _bytes(value) for key, value in metadata}
        identity, malformed = identify(headers.get(HEADER))
        try:
            if malformed:
                raise malformed
            key = self._keys.check(headers) if self._keys and name not in PROBES else None
            if name in FOR_ADMINS:
                self._right.check(headers)
        except ServiceError as exc:
            return Entry(identity, None, exc)
        return Entry(identity, key, None)

    async def _reply(self, request: type[Message], content: bytes, answer: Answer, left_s: float | None) -> Message:
        kept = len(content) if len(content) > INLINE_BYTES else 0  # probes and other small ones never wait for room
        if kept:
            self._room.take(kept)
        try:
            return await answer(_parsed(request, content, self._settings), Call(len(content), left_s))
        finally:
            self._room.give_back(kept)

    def _answered(self, _context: object) -> None:
        self._ended += 1


async def _sent(reply: Message | ServiceError, entry: Entry, context: grpc.aio.ServicerContext) -> Message:
    trailer = [(HEADER.decode(), entry.identity.decode())]
    if not isinstance(reply, ServiceError):
        context.set_trailing_metadata(tuple(trailer))
        return reply
    if reply.retry_after_s is not None:
        trailer.append((RETRY, str(reply.retry_after_s * 1000)))
    code = CODES.get(reply.status, grpc.StatusCode.INVALID_ARGUMENT)
    await context.abort(code, reply.detail, tuple(trailer))
    raise AssertionError("unreachable: `abort` raises")


def _parsed(request: type[Message], content: bytes, settings: Settings) -> Message:
    if len(content) > INLINE_BYTES:
        extent.check(content, settings)
    try:
        return request.FromString(content)
    except DecodeError as exc:
        raise MalformedRequest(f"The message is no {request.__name__}; let a client of the protocol make it.") from exc


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
