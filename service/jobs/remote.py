"""`convoy score --server URL`: the same inputs and the same output, with a server's batch doing the work in between.

The inputs are sent once, as NDJSON, under a key that was made up and kept for this output: a run that was cut off finds
its batch again and fetches only the rows that it has not got. Raises `StartupError` when the server can't be reached or
refuses.
"""

from __future__ import annotations

import base64
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import NoReturn
from urllib.parse import urlencode

import numpy as np
import orjson

from service.errors import BatchNotFound, InvalidImage, ModelNotFound, ServiceError, StartupError
from service.jobs.exchange import NOT_CONVOY, Answer, Headers, Remote
from service.jobs.inputs import Input
from service.jobs.ledger import Ledger
from service.types import RGBImage

POLL_S = 0.5
NDJSON = "application/x-ndjson"
FETCH_BYTES = 1 << 20


@dataclass
class RemoteRun:
    """One run of the command against a server."""

    remote: Remote
    ledger: Ledger
    query: dict[str, str]  # model, version, top_k
    on_rows: Callable[[int, int | None], None] = lambda _done, _total: None
    failed: int = 0  # rows that are errors, known once all are there

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self.remote.stopped

    def stop(self) -> None:
        """Fetch nothing more: for signal handlers."""
        self.remote.stop()

    def score(self, inputs: Iterator[Input]) -> tuple[str, ...]:
        """Send the inputs, unless that is done, and fetch rows until all are there or this is stopped.

        Returns the labels of the model that answered, none where neither the server nor a row has all of them.
        """
        try:
            path = self.ledger.kept.get("batch") or self._send(inputs)
            while not self.stopped:
                batch = self._ask(path).json("status", "model", "counts")
                if batch["status"] == "failed":
                    self._begin_anew(f"The batch failed: {batch['error']['detail']}")
                labels = self._labels(batch["model"])
                before = self.ledger.rows
                if batch["counts"]["done"] > before:  # else it would be a failed request in the server's log
                    self._fetch(path)
                self.on_rows(self.ledger.rows, batch["counts"]["total"])
                if batch["status"] == "succeeded" and self.ledger.rows == batch["counts"]["total"]:
                    self.failed = batch["counts"]["failed"]
                    return labels or self._labels_of_rows()
                if batch["status"] == "succeeded" and self.ledger.rows == before and not self.stopped:
                    raise StartupError(NOT_CONVOY)  # it has all rows, and does not give them
                time.sleep(POLL_S)
        except StartupError:
            if not self.stopped:  # else it gave up because it was told to
                raise
        return ()

    def forget(self) -> None:
        """The server need not keep the batch any longer; if that can't be said now, it will find out by itself."""
        with suppress(StartupError):
            self.remote.once("DELETE", self.ledger.kept["batch"])

    def _send(self, inputs: Iterator[Input]) -> str:
        known = self.ledger.kept.get("key")
        key = known or uuid.uuid4().hex
        self.remote.ask("/readyz")  # which waits: a body is sent but once, since inputs can't be had again
        self.ledger.keep({"key": key})  # before anything is sent: the server may have it all when this run ends
        headers = {"content-type": NDJSON, "idempotency-key": key}
        try:
            answer = self.remote.once("POST", f"/v1/batches?{urlencode(self.query)}", headers, self._lines(inputs))
        except ServiceError:  # of the inputs: the server takes no body that breaks off
            self._give_up(known)
            raise
        if answer.status == HTTPStatus.CONFLICT:
            self._begin_anew("The inputs have changed since an earlier run sent them.")
        if 300 <= answer.status < 500:
            self._give_up(known)
        path = f"/v1/batches/{answer.json('id')['id']}"
        self.ledger.keep({"key": key, "batch": path})
        return path

    def _give_up(self, known: str | None) -> None:
        """The server has nothing of this run's; under a key known before it may have what an earlier run sent."""
        if not known:
            self.ledger.clear()

    def _labels(self, model: dict[str, str]) -> tuple[str, ...]:
        """Those of the batch's model, asked for while it is loaded: it may not be any more when all rows are here.

        None where it is not loaded already: an earlier run may have ended before it had asked.
        """
        if "labels" not in self.ledger.kept:
            answer = self.remote.ask(f"/v1/models/{model['name']}/versions/{model['version']}")
            if _says(answer, ModelNotFound):
                return ()
            self.ledger.keep({**self.ledger.kept, "labels": answer.json("metadata")["metadata"]["labels"]})
        return tuple(self.ledger.kept["labels"])

    def _labels_of_rows(self) -> tuple[str, ...]:
        """Those of the first row with probabilities: in the model's order, unless it has the most probable alone."""
        found = (orjson.loads(line).get("probabilities") for line in self.ledger.lines())
        return () if "top_k" in self.query else tuple(next(filter(None, found), ()))

    def _lines(self, inputs: Iterator[Input]) -> Iterator[bytes]:
        for line in lines(inputs):
            if self.stopped:
                raise StartupError("Told to stop.")  # the server takes no body that breaks off
            yield line

    def _ask(self, path: str, headers: Headers | None = None) -> Answer:
        answer = self.remote.ask(path, headers)
        if _says(answer, BatchNotFound):
            self._begin_anew("The server does not have the batch any more.")
        return answer

    def _begin_anew(self, why: str) -> NoReturn:
        """Forget the batch and its rows, else the next run would find it again."""
        self.ledger.clear()
        raise StartupError(f"{why} The same command starts anew.")

    def _fetch(self, path: str) -> None:
        """Append the rows that are there and not here."""
        size = FETCH_BYTES
        while not self.stopped:
            start = self.ledger.position
            answer = self._ask(f"{path}/results?format=ndjson", {"range": f"bytes={start}-{start + size - 1}"})
            if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return
            if answer.status >= 300:
                answer.json()
            whole = answer.status != HTTPStatus.PARTIAL_CONTENT  # there are proxies that pass no range on
            body = answer.body[start:] if whole else answer.body
            if rows := body[: body.rfind(b"\n") + 1]:
                self.ledger.append(rows, self._count(rows), self.ledger.kept)
                self.ledger.commit()
            if whole or len(body) < size:
                return
            size = FETCH_BYTES if rows else 2 * size  # a row may be longer

    def _count(self, rows: bytes) -> int:
        """How many they are; raises `StartupError` where they are not those that come next."""
        count, first, last = rows.count(b"\n"), rows[: rows.find(b"\n")], rows[rows.rfind(b"\n", 0, -1) + 1 :]
        try:
            ends = [orjson.loads(line)["index"] for line in (first, last)]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            ends = []
        if ends != [self.ledger.rows, self.ledger.rows + count - 1]:
            raise StartupError(NOT_CONVOY)
        return count


def _says(answer: Answer, error: type[ServiceError]) -> bool:
    """Whether it is that problem, and none of a proxy's."""
    return answer.status == error.status and error.slug in str(answer.document().get("type"))


def lines(inputs: Iterator[Input]) -> Iterator[bytes]:
    """Inputs as the NDJSON that servers take, or why they can't be read here."""
    for each in inputs:
        content = each.content()
        row: dict[str, str | None] = {"id": each.id}
        if isinstance(content, InvalidImage):
            row["error"] = content.detail
        else:
            row["image"] = base64.b64encode(content if isinstance(content, bytes) else bitmap(content)).decode()
        yield orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def bitmap(image: RGBImage) -> bytes:
    """Pixels as a BMP file (BITMAPINFOHEADER, 24 bits, rows from the bottom, padded to four bytes)."""
    height, width = image.shape[:2]
    pad = -width * 3 % 4
    rows = np.pad(image[::-1, :, ::-1].reshape(height, width * 3), ((0, 0), (0, pad)))
    header = struct.pack("<LllHHLLllLL", 40, width, height, 1, 24, 0, rows.nbytes, 2835, 2835, 0, 0)
    return struct.pack("<2sLHHL", b"BM", 54 + rows.nbytes, 0, 0, 54) + header + rows.tobytes()
