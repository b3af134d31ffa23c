"""Requests → answers of a server that is busy, away, or elsewhere than one would think."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from service.errors import StartupError
from service.jobs import exchange
from service.jobs.exchange import Remote

Scripted = tuple[int, dict[str, str], bytes] | None  # None: the connection ends without an answer
GOOD: Scripted = (200, {}, b"{}")
BUSY: Scripted = (503, {"retry-after": "0"}, json.dumps({"detail": "The process is stopping."}).encode())
PROXYS = [(status, {"content-type": "text/html"}, b"<h1>Bad Gateway</h1>") for status in (502, 504)]


@contextmanager
def answering(*answers: Scripted) -> Iterator[tuple[str, list[str]]]:
    """A server's address and the paths it is asked for; the last of its answers is for all that is asked later."""
    asked: list[str] = []

    class Told(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if (answer := answers[min(len(asked), len(answers)) - 1]) is None:
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with HTTPServer(("127.0.0.1", 0), Told) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "PAUSE_S", 0.01)


@pytest.mark.parametrize("trouble", [BUSY, *PROXYS, None])
def test_a_server_that_is_busy_or_away_is_asked_again(trouble: Scripted) -> None:
    with answering(trouble, trouble, GOOD) as (url, asked):
        assert Remote(url).ask("/x").status == 200
    assert len(asked) == 3


def test_the_server_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(Remote, "_pause", lambda _, seconds: pauses.append(seconds))
    with answering((429, {"retry-after": "7"}, b""), GOOD) as (url, _):
        Remote(url).ask("/x")
    assert pauses == [7]


@pytest.mark.parametrize("told", ["3600", "9" * 400])
def test_a_server_that_says_to_wait_for_hours_is_asked_again_once_it_would_be_given_up(
    told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(Remote, "_pause", lambda _, seconds: pauses.append(seconds))
    with answering((429, {"retry-after": told}, b""), GOOD) as (url, _):
        Remote(url).ask("/x")
    assert pauses == [exchange.PATIENCE_S]


def test_a_server_that_stays_busy_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "PATIENCE_S", 0.05)
    with answering(BUSY) as (url, _), pytest.raises(StartupError, match="503: The process is stopping"):
        Remote(url).ask("/x").json()


def test_a_server_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "PATIENCE_S", 0.05)
    with pytest.raises(StartupError, match="can't be reached"):
        Remote("http://127.0.0.1:1").ask("/x")


def test_who_is_told_to_stop_waits_no_longer() -> None:
    remote = Remote("http://127.0.0.1:1")
    remote.stop()
    with pytest.raises(StartupError):
        remote.ask("/x")


def test_a_server_may_be_below_a_path() -> None:
    with answering(GOOD) as (url, asked):
        Remote(f"{url}/convoy/").ask("/v1/batches")
    assert asked == ["/convoy/v1/batches"]


def test_where_a_server_leads_to_is_said() -> None:
    with (
        answering((308, {"location": "https://x/v1/batches"}, b"")) as (url, _),
        pytest.raises(StartupError, match=r"308: it leads to https://x/v1/batches; check --server\."),
    ):
        Remote(url).ask("/v1/batches").json()


@pytest.mark.parametrize("body", [b"<html>Log in</html>", b"[]", b"{}", b""])
def test_what_convoy_would_not_say_is_one_sentence(body: bytes) -> None:
    with answering((200, {}, body)) as (url, _), pytest.raises(StartupError, match="not as Convoy does"):
        Remote(url).ask("/x").json("status")


@contextmanager
def saying(words: bytes) -> Iterator[str]:
    """The address of one that says this to the first who comes, reads nothing more and closes."""

    def say(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(words)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=say, args=[listener])
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_why_a_server_reads_no_further_is_said() -> None:
    """As a proxy does that takes no such bodies."""
    with saying(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n") as url:
        assert Remote(url).once("POST", "/x", lines=(bytes(1 << 20) for _ in range(1000))).status == 413


@pytest.mark.parametrize("words", [b"\x15\x03\x03\x00\x02\x02\x46", b"SSH-2.0-OpenSSH_9.6\r\n"])
def test_a_port_where_no_http_is_spoken_is_one_sentence(words: bytes) -> None:
    with saying(words) as url, pytest.raises(StartupError, match=r"can't be reached \(it does not speak HTTP\); what"):
        Remote(url).once("GET", "/x")


@pytest.mark.parametrize(
    "address",
    ["ftp://x", "localhost", "http://", "http://x:port", "http://x:99999", "http://[::1", "http://a..b", "http://a b"],
)
def test_what_is_no_address_is_one_sentence(address: str) -> None:
    with pytest.raises(StartupError, match="is no address"):
        Remote(address)


@pytest.mark.parametrize("address", ["http://me:secret@x", "http://x/?token=secret", "http://x/#secret"])
def test_what_is_more_than_an_address_is_one_sentence_without_its_secrets(address: str) -> None:
    with pytest.raises(StartupError, match="more than a server's address") as told:
        Remote(address)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(("scheme", "port"), [("http", 80), ("https", 443)])
def test_an_ipv6_address_without_a_port_is_whole(scheme: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[tuple[str, int]] = []

    def refuse(address: tuple[str, int], *_: object) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(StartupError, match="can't be reached"):
        Remote(f"{scheme}://[::1]").once("GET", "/x")
    assert connected == [("::1", port)]
