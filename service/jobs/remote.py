"""`convoy score --server URL`: the same inputs and the same output, with a server's batch doing the work in between.

The inputs are sent once, as NDJSON, under a key that is the run's own: a run that was cut off finds its batch again and
fetches only the rows that it has not got. Raises `StartupError` when the server can't be reached or refuses.
"""

from __future__ import annotations

import base64
import http.client
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import orjson

from service.errors import InvalidImage, StartupError
from service.jobs.inputs import Input
from service.jobs.ledger import Ledger
from service.types import RGBImage

TIMEOUT_S = 60.0
POLL_S = 0.5
TRIES = 5  # of a request that only asks, a while apart
NDJSON = "application/x-ndjson"
FETCH_BYTES = 1 << 20
Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status: int
    body: bytes
    location: str | None = None

    def json(self) -> dict[str, Any]:
        """The body; raises `StartupError` where it is a problem."""
        document: dict[str, Any] = orjson.loads(self.body) if self.body[:1] == b"{" else {}
        if self.status >= 300:
            raise StartupError(f"The server answers {self.status}: {document.get('detail', 'it does not say why')}")
        return document


class Remote:
    """One server."""

    def __init__(self, url: str, key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StartupError(f"--server {url} is no address like http://127.0.0.1:8000.")
        self._url = url
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port = parts.hostname, parts.port
        self._always: Headers = {"authorization": f"Bearer {key}"} if key else {}

    def send(self, path: str, lines: Iterator[bytes], headers: Headers) -> Answer:
        """POST a body as it is made."""
        return self._exchange("POST", path, lines, headers)

    def ask(self, path: str, headers: Headers | None = None, method: str = "GET") -> Answer:
        """A request without a body, again where the connection breaks."""
        for left in reversed(range(TRIES)):
            try:
                return self._exchange(method, path, None, headers or {})
            except StartupError:
                if not left:
                    raise
                time.sleep(POLL_S)
        raise AssertionError

    def _exchange(self, method: str, path: str, body: Iterator[bytes] | None, headers: Headers) -> Answer:
        connection = self._kind(self._host, self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, {**self._always, **headers}, encode_chunked=body is not None)
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(), answer.getheader("location"))
        except (OSError, http.client.HTTPException) as exc:
            raise StartupError(
                f"{self._url} can't be reached ({exc}); what is done is kept, run the same command again."
            ) from exc
        finally:
            connection.close()


@dataclass
class RemoteRun:
    """One run of the command against a server."""

    remote: Remote
    ledger: Ledger
    query: dict[str, str]  # model, version, top_k
    key: str
    on_rows: Callable[[int, int | None], None] = lambda _done, _total: None
    stopped: bool = False

    def stop(self) -> None:
        """Fetch nothing more: for signal handlers."""
        self.stopped = True

    def score(self, inputs: Iterator[Input]) -> tuple[str, ...]:
        """Send the inputs, unless that is done, and fetch rows until all are there or this is stopped.

        Returns the labels of the model that answered.
        """
        path = self.ledger.kept.get("batch") or self._send(inputs)
        while not self.stopped:
            batch = self.remote.ask(path).json()
            self._fetch(path)
            self.on_rows(self.ledger.rows, batch["counts"]["total"])
            if batch["status"] == "failed":
                raise StartupError(f"The batch failed: {batch['error']['detail']}")
            if batch["status"] == "succeeded" and self.ledger.rows == batch["counts"]["total"]:
                model = batch["model"]
                about = self.remote.ask(f"/v1/models/{model['name']}/versions/{model['version']}").json()
                return tuple(about["metadata"]["labels"])
            time.sleep(POLL_S)
        return ()

    def forget(self) -> None:
        """The server need not keep the batch any longer."""
        self.remote.ask(self.ledger.kept["batch"], method="DELETE")

    def _send(self, inputs: Iterator[Input]) -> str:
        headers = {"content-type": NDJSON, "idempotency-key": self.key}
        answer = self.remote.send(f"/v1/batches?{urlencode(self.query)}", lines(inputs), headers)
        answer.json()
        path = answer.location or ""
        self.ledger.keep({"batch": path})
        return path

    def _fetch(self, path: str) -> None:
        """Append the rows that are there and not here."""
        while not self.stopped:
            start = self.ledger.position
            part = {"range": f"bytes={start}-{start + FETCH_BYTES - 1}"}
            answer = self.remote.ask(f"{path}/results?format=ndjson", part)
            if answer.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                return
            if answer.status != http.client.PARTIAL_CONTENT:
                answer.json()
                return
            rows = answer.body[: answer.body.rfind(b"\n") + 1]
            self.ledger.append(rows, rows.count(b"\n"), self.ledger.kept)
            self.ledger.commit()
            if len(answer.body) < FETCH_BYTES:
                return


def lines(inputs: Iterator[Input]) -> Iterator[bytes]:
    """Inputs as the NDJSON that servers take; what can't be read here is a row without an image there."""
    for each in inputs:
        content = each.content()
        row: dict[str, str | None] = {"id": each.id}
        if not isinstance(content, InvalidImage):
            row["image"] = base64.b64encode(content if isinstance(content, bytes) else bitmap(content)).decode()
        yield orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def bitmap(image: RGBImage) -> bytes:
    """Pixels as a BMP file (BITMAPINFOHEADER, 24 bits, rows from the bottom, padded to four bytes)."""
    height, width = image.shape[:2]
    pad = -width * 3 % 4
    rows = np.pad(image[::-1, :, ::-1].reshape(height, width * 3), ((0, 0), (0, pad)))
    header = struct.pack("<LllHHLLllLL", 40, width, height, 1, 24, 0, rows.nbytes, 2835, 2835, 0, 0)
    return struct.pack("<2sLHHL", b"BM", 54 + rows.nbytes, 0, 0, 54) + header + rows.tobytes()
