"""Requests → answers of one server over HTTP; raises `StartupError` when it can't be reached or refuses."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import orjson

from service.errors import StartupError

TIMEOUT_S = 60.0
PATIENCE_S = 60.0  # how long a server may be busy or away: it may be restarting
PAUSE_S = 0.5  # before the next try, where the server does not say how long
BUSY = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status: int
    body: bytes
    retry_after: str = ""

    def document(self) -> dict[str, Any]:
        """The body, a problem perhaps; empty where it is no JSON object."""
        try:
            found = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return found if isinstance(found, dict) else {}

    def json(self) -> dict[str, Any]:
        """The body; raises `StartupError` where it is a problem."""
        document = self.document()
        if self.status >= 300:
            why = document.get("detail", "it does not say why")
            hint = " --api-key-file FILE sends one." if self.status == HTTPStatus.UNAUTHORIZED else ""
            raise StartupError(f"The server answers {self.status}: {why}{hint}")
        return document


class Remote:
    """One server."""

    def __init__(self, url: str, key: str | None = None) -> None:
        try:
            parts = urlsplit(url)
            self._host, self._port = (parts.hostname or "").encode("idna").decode(), parts.port
            self._root = parts.path.rstrip("/").encode("ascii").decode()
        except ValueError:  # UnicodeError among them
            self._host = ""
        if not self._host or parts.scheme not in ("http", "https") or " " in url or not url.isprintable():
            raise StartupError(f"--server {url} is no address like http://127.0.0.1:8000.")
        self._url = url
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._always: Headers = {"authorization": f"Bearer {key}"} if key else {}
        self.stopped = False

    def stop(self) -> None:
        """Wait for nothing more: for signal handlers."""
        self.stopped = True

    def once(
        self, method: str, path: str, headers: Headers | None = None, lines: Iterator[bytes] | None = None
    ) -> Answer:
        """One request, its body sent as it is made."""
        connection = self._kind(self._host, self._port, timeout=TIMEOUT_S)
        try:
            self._send(connection, method, path, headers or {}, lines)
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(), answer.getheader("retry-after", ""))
        except (OSError, http.client.HTTPException) as exc:
            raise StartupError(
                f"{self._url} can't be reached ({exc}); what is done is kept, run the same command again."
            ) from exc
        finally:
            connection.close()

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        headers: Headers,
        lines: Iterator[bytes] | None,
    ) -> None:
        try:
            connection.request(
                method, self._root + path, lines, {**self._always, **headers}, encode_chunked=lines is not None
            )
        except (BrokenPipeError, ConnectionResetError):
            if connection.sock is None:
                raise
            # else it reads no more: it may have said why

    def ask(self, path: str, headers: Headers | None = None) -> Answer:
        """A request that only asks, again and again while the server is busy or away, for `PATIENCE_S` or so."""
        ends = time.monotonic() + PATIENCE_S
        while True:
            outcome = self._outcome(path, headers)
            if isinstance(outcome, Answer) and outcome.status not in BUSY:
                return outcome
            if self.stopped or time.monotonic() >= ends:
                break
            told = outcome.retry_after if isinstance(outcome, Answer) else ""
            self._pause(max(PAUSE_S, float(told) if told.isdecimal() else 0.0))
        if isinstance(outcome, StartupError):
            raise outcome
        return outcome

    def _outcome(self, path: str, headers: Headers | None) -> Answer | StartupError:
        try:
            return self.once("GET", path, headers)
        except StartupError as exc:
            return exc

    def _pause(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while not self.stopped and (left := ends - time.monotonic()) > 0:
            time.sleep(min(left, PAUSE_S))
