"""What the framework's requests end with when their task is cancelled."""

from __future__ import annotations

import asyncio
import select

import orjson
import pytest
from starlette.types import Message, Receive, Scope, Send

from service import telemetry
from service.api.cors import Origins
from service.api.incoming import CONNECTION_EXTENSION, Connection
from service.api.request_log import RequestLog, RequestLogMiddleware
from service.counters import Counters
from service.metrics import Metrics

SHOP = "https://shop.example"


async def cancelled(
    metrics: Metrics, *, begun: bool = False, ended: bool = False, draining: bool = True
) -> list[Message]:
    """What is sent in answer to a request whose task is cancelled, perhaps behind the head of an answer."""
    sent: list[Message] = []
    connection = Connection()
    connection.ended = ended

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise asyncio.CancelledError

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/x", "headers": [(b"origin", SHOP.encode())],
        "extensions": {CONNECTION_EXTENSION: connection},
    }  # fmt: skip
    middleware = RequestLogMiddleware(app, RequestLog(metrics, "failed"), Origins([SHOP]), draining=lambda: draining)
    await middleware(scope, receive, send)
    return sent


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(Counters.alone())


def count(metrics: Metrics, status: int) -> float:
    return metrics.total("convoy_requests_total", "other", "GET", str(status))


def test_by_a_stopping_process_it_is_told_to_go_elsewhere(metrics: Metrics) -> None:
    head, body = asyncio.run(cancelled(metrics))
    headers, problem = dict(head["headers"]), orjson.loads(body["body"])
    assert (head["status"], problem["type"], headers[b"retry-after"]) == (503, "/problems/draining", b"1")
    assert problem["instance"] == headers[b"x-request-id"].decode()
    assert headers[b"access-control-allow-origin"] == SHOP.encode()  # else a page's script could not read it
    assert count(metrics, 503) == 1


def test_a_client_that_has_gone_is_told_nothing_and_499(metrics: Metrics) -> None:
    assert asyncio.run(cancelled(metrics, ended=True)) == []
    assert (count(metrics, 499), count(metrics, 503)) == (1, 0)


def test_an_answer_that_has_begun_gets_no_second_head(metrics: Metrics) -> None:
    (head,) = asyncio.run(cancelled(metrics, begun=True))
    assert head["status"] == 200
    assert (count(metrics, 200), count(metrics, 503)) == (1, 0)


def test_by_anybody_else_it_stays_cancelled(metrics: Metrics) -> None:
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled(metrics, draining=False))


def test_the_line_of_a_request_without_a_task_has_its_id_all_the_same(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    RequestLog(metrics, "all").record("/x", "GET", "/x", 503, 0.1, b"mine")
    (record,) = caplog.records
    assert telemetry.JsonFormatter().format(record).count('"request_id": "mine"') == 1


@pytest.mark.parametrize("path", ["/" + "x" * 60_000, "/" + "\N{SHIP}\N{GRINNING FACE}" * 20_000])
def test_the_longest_path_leaves_its_line_whole_among_those_of_other_workers(
    metrics: Metrics, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level("INFO")
    RequestLog(metrics, "all").record("other", "OPTIONS", path, 404, 60.0, b"i" * 128)
    (record,) = caplog.records
    line = telemetry.JsonFormatter().format(record)
    assert len(f"{line}\n".encode()) <= select.PIPE_BUF
    assert orjson.loads(line)["path"] == path[:256] + "…"
