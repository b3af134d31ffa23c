"""A request past the framework has what the framework's requests have: an id, a count, a problem for every error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import orjson
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from service.api.body_room import SMALL_BYTES, BodyRoom
from service.api.direct import DirectRoute, Header
from service.api.incoming import Connection, Incoming, Reply
from service.api.request_log import RequestLog
from service.counters import Counters
from service.errors import Overloaded
from service.metrics import Metrics

Endpoint = Callable[[Incoming], Awaitable[Reply]]


async def fine(_request: Incoming) -> Reply:
    return Reply(200, b"text/plain", b"fine", since=0.0)


def raising(error: BaseException) -> Endpoint:
    async def endpoint(_request: Incoming) -> Reply:
        raise error

    return endpoint


async def handle(
    endpoint: Endpoint,
    *,
    given: bytes | None = None,
    ended: bool = False,
    draining: bool = False,
    metrics: Metrics | None = None,
    room: BodyRoom | None = None,
    body: bytes | Receive = b"",
) -> tuple[Reply, Header]:
    sent: list[tuple[Reply, Header]] = []

    async def send(reply: Reply, request_id: Header) -> None:
        sent.append((reply, request_id))

    metrics, connection = metrics or Metrics(Counters.alone()), Connection()
    connection.ended = ended
    log, headers = RequestLog(metrics, "failed"), {} if given is None else {b"x-request-id": given}
    route = DirectRoute(
        "POST",
        "/x",
        endpoint,
        draining=lambda: draining,
        max_body_bytes=9,
        room=room or BodyRoom(9),
        log=log,
        metrics=metrics,
    )
    await route.handle(Incoming("/x", headers, b"", body, connection), send)
    (answer,) = sent
    return answer


def test_the_clients_id_is_echoed_and_one_is_made_where_there_is_none() -> None:
    assert asyncio.run(handle(fine, given=b"a-b"))[1] == (b"x-request-id", b"a-b")
    made = {asyncio.run(handle(fine))[1][1] for _ in range(3)}
    assert len(made) == 3
    assert {len(each) for each in made} == {32}


@pytest.mark.parametrize("given", [b"", b"a b", b"\xff", b"x" * 129])
def test_an_id_that_could_be_something_else_is_refused_and_replaced(given: bytes) -> None:
    reply, (_, current) = asyncio.run(handle(fine, given=given))
    assert (reply.status, orjson.loads(reply.body)["instance"]) == (400, current.decode())
    assert len(current) == 32


def test_an_error_is_its_problem() -> None:
    reply, _ = asyncio.run(handle(raising(Overloaded("Wait.", retry_after_s=3))))
    assert (reply.status, reply.media_type) == (503, b"application/problem+json")
    assert reply.headers == ((b"retry-after", b"3"),)


def test_what_nobody_foresaw_is_500_and_in_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        reply, _ = asyncio.run(handle(raising(RuntimeError("secret"))))
    assert reply.status == 500
    assert b"secret" not in reply.body
    assert "secret" in caplog.text


@pytest.mark.parametrize("draining", [False, True])
@pytest.mark.parametrize("error", [asyncio.CancelledError(), ClientDisconnect()])
def test_a_client_that_has_gone_is_499(error: BaseException, draining: bool) -> None:
    assert asyncio.run(handle(raising(error), ended=True, draining=draining))[0].status == 499


def test_what_a_stopping_process_cancels_is_told_to_go_elsewhere() -> None:
    reply, (_, current) = asyncio.run(handle(raising(asyncio.CancelledError()), draining=True))
    problem = orjson.loads(reply.body)
    assert (reply.status, problem["type"], problem["instance"]) == (503, "/problems/draining", current.decode())
    assert reply.headers == ((b"retry-after", b"1"),)


def test_a_cancelled_task_of_a_client_that_waits_stays_cancelled() -> None:
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(handle(raising(asyncio.CancelledError())))


def test_requests_are_counted_by_status() -> None:
    metrics = Metrics(Counters.alone())
    for endpoint in (fine, fine, raising(Overloaded("Wait."))):
        asyncio.run(handle(endpoint, metrics=metrics))
    text = metrics.render().decode()
    assert 'convoy_requests_total{route="/x",method="POST",status="200"} 2' in text
    assert 'convoy_requests_total{route="/x",method="POST",status="503"} 1' in text
    assert 'convoy_stage_seconds_count{stage="respond"} 2' in text


async def receive() -> Message:
    return {"type": "http.request", "body": b"abcdef"}


@pytest.mark.parametrize("body", [receive, bytes(SMALL_BYTES + 1)], ids=["that comes", "that is there"])
def test_a_body_keeps_its_room_until_the_answer_and_no_longer(body: bytes | Receive) -> None:
    async def scenario() -> None:
        room, reading, free = BodyRoom(9), asyncio.Event(), asyncio.Event()

        async def read(request: Incoming) -> Reply:
            await request.whole(1 << 20)
            reading.set()
            await free.wait()
            return await fine(request)

        first = asyncio.create_task(handle(read, room=room, body=body))
        await reading.wait()
        refused, _ = await asyncio.wait_for(handle(read, room=room, body=body), 30)
        assert (refused.status, orjson.loads(refused.body)["type"]) == (503, "/problems/overloaded")
        assert (b"retry-after", b"1") in refused.headers
        free.set()
        assert (await first)[0].status == 200
        assert (await handle(read, room=room, body=body))[0].status == 200

    asyncio.run(scenario())
