"""Tables → their rows' images: NDJSON with base64, and Parquet as dataset hubs ship it.

A row that is none has its error in its place; a table that can't be read raises `InvalidSource`.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from service.errors import InvalidImage, InvalidSource
from service.jobs.inputs import MOST_ID_LENGTH, Input, Limits, refused

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import FileMetaData, ParquetFile

BESIDE_THE_IMAGE = 64 << 10  # bytes of a line
IMAGE_COLUMNS = ("image", "img")  # the second is what CIFAR-10 has on its hub
ROWS_AT_ONCE, BYTES_AT_ONCE = 64, 64 << 20  # of Parquet in memory, most of it several times
MOST_ERROR_LENGTH = 1024  # characters; it stands in the row
IN_JSON = (bool, int, float, list, dict, type(None))  # what JSON has a kind for, beside text
NO_IMAGE = 'The row has no image; send {"id": "…", "image": "<base64>"}.'
NOT_A_ROW = 'The line is no JSON object; send {"id": "…", "image": "<base64>"}.'
ID_FIRST = re.compile(rb'\s*\{\s*"id"\s*:\s*"(?:[^"\\]|\\.){0,4096}"')  # as `convoy score --server` sends it


def ndjson_inputs(stream: BinaryIO, _size: int, limits: Limits) -> Iterator[Input]:
    """`{"id": …, "image": "<base64>", "label": …}` per line; id and label may be absent, empty lines don't count.

    `{"id": …, "error": "…"}` is an image that its sender could not read, and why.
    """
    longest = limits.max_image_bytes * 4 // 3 + BESIDE_THE_IMAGE
    seen = 0
    while line := stream.readline(longest):
        is_cut = len(line) == longest and not line.endswith(b"\n")
        if not seen:
            line = line.removeprefix(codecs.BOM_UTF8)
        if is_cut:
            while (rest := stream.readline(longest)) and not rest.endswith(b"\n"):
                pass
            found = _named(_first_id(line), partial(_refuse, limits.too_large()))
        elif line.isspace():
            continue
        else:
            found = _row(line, limits)
        seen += 1
        limits.check_count(seen)
        yield found


def _first_id(line: bytes) -> object:
    """The id of a row that is too long to be read whole, where it is a text and stands first; else None."""
    try:
        return orjson.loads(found[0] + b"}")["id"] if (found := ID_FIRST.match(line)) else None
    except orjson.JSONDecodeError:
        return None


def _row(line: bytes, limits: Limits) -> Input:
    try:
        row: Any = orjson.loads(line)
    except orjson.JSONDecodeError:
        row = None
    if not isinstance(row, dict):
        return refused(None, NOT_A_ROW)
    id_, image, truth, error = (row.get(name) for name in ("id", "image", "label", "error"))
    if image is None and isinstance(error, str):
        return _named(id_, partial(_refuse, InvalidImage(error[:MOST_ERROR_LENGTH])))
    if not isinstance(image, str):
        return _named(id_, partial(_refuse, InvalidImage(NO_IMAGE)))
    return _named(id_, partial(_from_base64, image, limits), truth if isinstance(truth, str) else None)


def _named(value: object, read: Callable[[], bytes], truth: str | None = None) -> Input:
    try:
        id_ = _id(value)
    except TypeError:  # lists within lists are read to a greater depth than they are written
        return refused(None, "The id can't be written as JSON; send a text.")
    if id_ is not None and len(id_) > MOST_ID_LENGTH:
        return refused(id_[:MOST_ID_LENGTH], f"An id may have {MOST_ID_LENGTH} characters at most; shorten it.")
    return Input(id_, read, truth)


def _id(value: object) -> str | None:
    """The text of an id; one that is no text is what JSON calls it, and null is none."""
    if not isinstance(value, IN_JSON):
        return _plain(value)
    text = orjson.dumps(value, default=_plain).decode()
    return None if text == "null" else text


def _plain(value: object) -> str:
    """The text of what JSON has no kind for, as Parquet's binary and dates."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _refuse(error: InvalidImage) -> bytes:
    raise error


def _from_base64(text: str, limits: Limits) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidImage("The text is not base64; encode the image file's bytes.") from exc
    if len(content) > limits.max_image_bytes:
        raise limits.too_large()
    return content


def parquet_inputs(stream: BinaryIO, size: int, limits: Limits) -> Iterator[Input]:
    """A column `image` (binary, or a struct with `bytes`), perhaps `id` and `label`."""
    parquet, errors = _pyarrow()
    try:
        table = parquet.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False)
        limits.check_count(table.metadata.num_rows)
        schema = table.schema_arrow
        image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
        if image is None:
            raise InvalidSource("The Parquet file has no column `image`; name the images' column so.")
        names = _label_names(schema)
        if twice := next((name for name in (image, "id", "label") if schema.names.count(name) > 1), None):
            raise InvalidSource(f"The Parquet file has two columns `{twice}`; name one of them otherwise.")
        columns = [name for name in (image, "id", "label") if name in schema.names]
        budget = limits.budget(size)
        for batch in _batches(table, columns):
            budget.spend(batch.nbytes)
            rows = {name: batch.column(name).to_pylist() for name in columns if name != image}
            for at, value in enumerate(_cells(batch.column(image))):
                id_ = rows["id"][at] if "id" in rows else None
                truth = _truth(rows["label"][at], names) if "label" in rows else None
                yield _named(id_, partial(_cell, value, limits), truth)
    except MemoryError as exc:  # pyarrow's is one of `errors`, too
        raise InvalidSource(
            "The Parquet file takes too much memory; write it with fewer rows in a row group, or anew if it is damaged."
        ) from exc
    except errors as exc:
        raise InvalidSource("The Parquet file is damaged, cut off or encrypted; write it again.") from exc


def _batches(table: ParquetFile, columns: list[str]) -> Iterator[pyarrow.RecordBatch]:
    """Some rows of one row group at a time: a struct with a dictionary in it can't be read across two."""
    rows_at_once = _rows_at_once(table.metadata)
    for group in range(table.num_row_groups):  # without threads, which reserve memory each
        yield from table.iter_batches(rows_at_once, row_groups=[group], columns=columns, use_threads=False)


def _rows_at_once(table: FileMetaData) -> int:
    """So many that there are not too many bytes of them, even where the rows are largest: one at least."""
    groups = (table.row_group(at) for at in range(table.num_row_groups))
    rows = (BYTES_AT_ONCE * each.num_rows // max(1, each.total_byte_size) for each in groups if each.num_rows)
    return max(1, min([ROWS_AT_ONCE, *map(int, rows)]))


def _cells(column: pyarrow.Array) -> list[Any]:
    """Bytes, or whatever else stands in the column."""
    at = column.type.get_field_index("bytes") if hasattr(column.type, "get_field_index") else -1
    return list((column if at < 0 else column.flatten()[at]).to_pylist())  # a struct's row would be a dict each


def parquet_is_available() -> bool:
    """Whether the extra `parquet` is installed."""
    try:
        _pyarrow()
    except InvalidSource:
        return False
    return True


def _pyarrow() -> tuple[Any, tuple[type[Exception], ...]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as exc:
        raise InvalidSource(
            "Parquet can't be read here; install convoy's extra `parquet`, or send another format."
        ) from exc
    return parquet, (pyarrow.ArrowException, OSError, ValueError, OverflowError)


def _label_names(schema: pyarrow.Schema) -> list[str]:
    """The classes' names that Hugging Face's `datasets` keeps beside a column of numbers."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features["label"]["names"]]
    except (TypeError, KeyError, ValueError):
        return []


def _truth(value: object, names: list[str]) -> str | None:
    if isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return value if isinstance(value, str) else None


def _cell(value: object, limits: Limits) -> bytes:
    if not isinstance(value, bytes):
        raise InvalidImage("The row has no image: its cell holds no bytes.")
    if len(value) > limits.max_image_bytes:
        raise limits.too_large()
    return value
