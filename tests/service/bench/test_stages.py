"""Where the time of requests goes, by the server's own account."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from service.bench import stages
from service.bench.stages import Stage
from service.counters import Counters
from service.metrics import Metrics


@contextmanager
def answering(body: bytes) -> Iterator[tuple[str, int]]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        yield "127.0.0.1", server.server_port
        thread.join()


def test_what_metrics_say_is_understood() -> None:
    metrics = Metrics(Counters.alone())
    for stage, seconds in (("infer", 0.25), ("decode", 0.5), ("infer", 0.5)):
        metrics.histogram("convoy_stage_seconds", stage).observe(seconds)
    with answering(metrics.render()) as (host, port):
        assert stages.read(host, port) == {"decode": Stage(0.5, 1), "infer": Stage(0.75, 2)}


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff"])
def test_a_server_that_does_not_say_has_no_stages(body: bytes) -> None:
    with answering(body) as (host, port):
        assert stages.read(host, port) == {}


def test_a_server_that_is_not_there_has_no_stages() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert stages.read("127.0.0.1", port) == {}


def test_only_what_came_between_the_readings_counts() -> None:
    before = {"infer": Stage(1.0, 10), "decode": Stage(1.0, 1)}
    after = {"decode": Stage(1.0, 1), "infer": Stage(1.5, 1010), "respond": Stage(0.002, 1000)}
    assert [line.split() for line in stages.table(before, after).splitlines()] == [
        ["infer", "500", "µs"],
        ["respond", "2", "µs"],
    ]
