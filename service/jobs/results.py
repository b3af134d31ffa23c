"""Outcomes → rows of NDJSON, the form in which results are kept; rows → the files that people ask for: `RESULTS`.

A row is {"index", "id", "label", "probability", "probabilities"} or {"index", "id", "error"}: one per input, in order.
Where a coverage was asked for, rows of the first kind have a "prediction_set" as well.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from service.errors import NotAcceptable, ServiceError
from service.prediction import Prediction

ROWS_PER_GROUP = 16_384  # of a Parquet file; so many rows are in memory
OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
COLUMNS = ("index", "id", "label", "probability", "error", "detail")


def rows(
    first: int,
    ids: Sequence[str | None],
    outcomes: Sequence[Prediction | ServiceError],
    top_k: int | None,
    threshold: float | None = None,
) -> bytes:
    """NDJSON; `first` is the index of the first input, `threshold` that of prediction sets."""
    return b"".join(
        orjson.dumps({"index": index, "id": id_, **_fields(outcome, top_k, threshold)}, option=OPTIONS)
        for index, (id_, outcome) in enumerate(zip(ids, outcomes, strict=True), first)
    )


def _fields(outcome: Prediction | ServiceError, top_k: int | None, threshold: float | None) -> dict[str, Any]:
    return {"error": outcome.summary()} if isinstance(outcome, ServiceError) else outcome.summary(top_k, threshold)


class Encoder(Protocol):
    """Whole lines of NDJSON go in, bytes of another format come out, some of them late."""

    def encode(self, lines: bytes) -> bytes:
        """More rows."""

    def end(self) -> bytes:
        """No more rows."""


class _Ndjson:
    def __init__(self, labels: Sequence[str], sets: bool) -> None:
        """The rows say everything themselves."""

    def encode(self, lines: bytes) -> bytes:
        return lines

    def end(self) -> bytes:
        return b""


class _Csv:
    """One column per class, empty where `top_k` left it out, and one for prediction sets, as JSON; RFC 4180."""

    def __init__(self, labels: Sequence[str], sets: bool) -> None:
        self._labels, self._sets, self._text = labels, sets, io.StringIO(newline="")
        self._writer = csv.writer(self._text)
        of_sets = ["prediction_set"] if sets else []
        self._writer.writerow([*COLUMNS, *of_sets, *(f"probabilities.{label}" for label in labels)])

    def encode(self, lines: bytes) -> bytes:
        for line in lines.splitlines():
            row = orjson.loads(line)
            failure, probabilities = row.get("error", {}), row.get("probabilities", {})
            self._writer.writerow(
                [
                    *(row.get(name) for name in COLUMNS[:4]),
                    failure.get("type"),
                    failure.get("detail"),
                    *([_json(row.get("prediction_set"))] if self._sets else []),
                    *(probabilities.get(label) for label in self._labels),
                ]
            )
        return self.end()

    def end(self) -> bytes:
        content = self._text.getvalue().encode()
        self._text.seek(0)
        self._text.truncate()
        return content


def _json(value: object) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


class _Parquet:
    """The same fields as in JSON: `probabilities` and `error` are structs, `prediction_set` is a list."""

    def __init__(self, labels: Sequence[str], sets: bool) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as exc:
            raise NotAcceptable(
                "Parquet can't be written here; install convoy's extra `parquet`, or ask for another format."
            ) from exc
        text, number = pyarrow.string(), pyarrow.float32()
        self._schema = pyarrow.schema(
            {
                "index": pyarrow.int64(),
                "id": text,
                "label": text,
                "probability": number,
                "probabilities": pyarrow.struct(dict.fromkeys(labels, number)),
                **({"prediction_set": pyarrow.list_(text)} if sets else {}),
                "error": pyarrow.struct({"type": text, "title": text, "detail": text}),
            }
        )
        self._batch, self._rows = pyarrow.RecordBatch, list[dict[str, Any]]()
        self._file = io.BytesIO()
        self._writer = parquet.ParquetWriter(self._file, self._schema, compression="zstd")

    def encode(self, lines: bytes) -> bytes:
        self._rows += map(orjson.loads, lines.splitlines())
        if len(self._rows) < ROWS_PER_GROUP:
            return b""
        self._write_group()
        return self._taken()

    def end(self) -> bytes:
        if self._rows:
            self._write_group()
        self._writer.close()
        return self._taken()

    def _write_group(self) -> None:
        self._writer.write_batch(self._batch.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()

    def _taken(self) -> bytes:
        content = self._file.getvalue()
        self._file.seek(0)
        self._file.truncate()
        return content


@dataclass(frozen=True, slots=True)
class ResultFormat:
    """A format of results.

    `encoder` takes the model's labels, and whether rows have prediction sets; it raises `NotAcceptable` where a package
    is missing.
    """

    media_type: str
    suffixes: tuple[str, ...]
    encoder: Callable[[Sequence[str], bool], Encoder]


RESULTS: dict[str, ResultFormat] = {
    "ndjson": ResultFormat("application/x-ndjson", (".ndjson", ".jsonl"), _Ndjson),
    "csv": ResultFormat("text/csv", (".csv",), _Csv),
    "parquet": ResultFormat("application/vnd.apache.parquet", (".parquet",), _Parquet),
}
