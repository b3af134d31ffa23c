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
BUSY = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,  # what a proxy says of a server that restarts
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
NOT_CONVOY = "The server answers, but not as Convoy does; check --server, and any proxy between."
Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status: int
    body: bytes
    retry_after: str = ""
    location: str = ""

    def document(self) -> dict[str, Any]:
        """The body, a problem perhaps; empty where it is no JSON object."""
        try:
            found = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return found if isinstance(found, dict) else {}

    def json(self, *names: str) -> dict[str, Any]:
        """The body, in which these names stand; raises `StartupError` where it is a problem, or nothing of Convoy's."""
        document = self.document()
        if self.status >= 300:
            where = f"it leads to {self.location}; check --server." if self.location else "it does not say why."
            why = document.get("detail") or where
            hint = " --api-key-file FILE sends one." if self.status == HTTPStatus.UNAUTHORIZED else ""
            raise StartupError(f"The server answers {self.status}: {why}{hint}")
        if not document.keys() >= set(names):
            raise StartupError(NOT_CONVOY)
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
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise StartupError("--server is more than a server's address; leave out its user, query and fragment.")
        self._url = url
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        if self._port is None:  # else a part of an IPv6 address would be taken for it
            self._port = self._kind.default_port
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
            retry_after, location = (answer.getheader(name, "") for name in ("retry-after", "location"))
            return Answer(answer.status, answer.read(), retry_after, location)
        except (OSError, http.client.HTTPException) as exc:
            why = "it does not speak HTTP" if type(exc) is http.client.BadStatusLine else exc  # whose text is any bytes
            raise StartupError(
                f"{self._url} can't be reached ({why}); what is done is kept, run the same command again."
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
            self._pause(min(max(PAUSE_S, float(told) if told.isdecimal() else 0.0), PATIENCE_S))
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
