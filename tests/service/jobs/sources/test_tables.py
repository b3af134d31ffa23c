"""Tables → rows."""

from __future__ import annotations

import codecs
import io
import json
import os
import tracemalloc

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from service.errors import InvalidSource
from service.jobs.inputs import Budget, Limits
from service.jobs.sources import tables
from tests.service.jobs.packing import PACKERS, as_ndjson, as_parquet, inputs, outcomes

PICTURES = [("a", b"first"), ("b", b"second" * 1000), ("c", b"")]


def table(columns: dict[str, object], metadata: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    parquet.write_table(pyarrow.table(columns).replace_schema_metadata(metadata), stream)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["ndjson", "parquet"])
def test_rows_come_in_order(kind: str) -> None:
    assert outcomes(kind, PACKERS[kind](PICTURES)) == PICTURES


@pytest.mark.parametrize("kind", ["ndjson", "parquet"])
def test_too_many_rows_are_refused(kind: str) -> None:
    with pytest.raises(InvalidSource, match="2 images at most"):
        outcomes(kind, PACKERS[kind](PICTURES), Limits(max_inputs=2))


@pytest.mark.parametrize("kind", ["ndjson", "parquet"])
def test_an_image_that_is_too_large_has_an_error_in_its_place(kind: str) -> None:
    first, (_, large), last = outcomes(kind, PACKERS[kind](PICTURES), Limits(max_image_bytes=5))
    assert (first, last) == (PICTURES[0], PICTURES[2])
    assert "5 bytes at most" in str(large)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"no JSON", "no JSON object"),
        (b"[1]", "no JSON object"),
        (b'{"id": "x"}', "has no image"),
        (b'{"image": 5}', "has no image"),
        (b'{"id": "x", "error": "The link leads nowhere."}', "The link leads nowhere."),
        (b'{"id": "x", "error": {}}', "has no image"),
        (b'{"image": "%%%"}', "not base64"),
        (b'{"image": "\xff"}', "no JSON object"),
    ],
)
def test_a_line_that_is_no_row_has_an_error_in_its_place(line: bytes, error: str) -> None:
    (_, first), (_, bad), (_, last) = outcomes(
        "ndjson", as_ndjson([("a", b"x")]) + line + b"\n" + as_ndjson([("b", b"y")])
    )
    assert (first, last) == (b"x", b"y")
    assert error in str(bad)


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_a_line_longer_than_any_image_is_passed_over_with_an_error(mark: bytes) -> None:
    long = mark + b'{"image": "' + b"A" * 500_000 + b'"}\n'
    (_, bad), (_, good) = outcomes("ndjson", long + as_ndjson([("b", b"y")]), Limits(max_image_bytes=100))
    assert "100 bytes at most" in str(bad)
    assert good == b"y"


@pytest.mark.parametrize(
    ("head", "id_"),
    [
        (b'{"id": "a", ', "a"),
        (b'\t{ "id" :"\\"\\u00e9\\\\", ', '"é\\'),
        (b'{"id": "", ', ""),
        (b'{"id": "%s", ' % (b"x" * 2000), "x" * 1024),
        (b'{"id": "\\ud800", ', None),  # no text
        (b'{"id": 7, ', None),
        (b'{"label": "cat", "id": "a", ', None),
        (b'{"id": "%s", ' % (b"\\" * 300_000), None),
    ],
)
def test_such_a_line_has_its_id_where_that_is_a_text_and_comes_first(head: bytes, id_: str | None) -> None:
    long = head + b'"image": "' + b"A" * 500_000 + b'"}\n'
    (found, bad), (after, _) = outcomes("ndjson", long + as_ndjson([("b", b"y")]), Limits(max_image_bytes=100))
    assert (found, after) == (id_, "b")
    assert "bytes at most" in str(bad) or "characters at most" in str(bad)


def test_ids_and_labels_are_taken_and_data_urls_understood() -> None:
    lines = [
        {"id": 7, "image": "eA==", "label": "cat"},
        {"image": "data:image/png;base64,eA==", "label": 3},
    ]
    found = list(inputs("ndjson", "\n\n".join(map(json.dumps, lines)).encode()))
    assert [(each.id, each.content(), each.truth) for each in found] == [("7", b"x", "cat"), (None, b"x", None)]


@pytest.mark.parametrize("id_", ["true", "false", "5", "1.5", "[1,null]", '{"a":"b"}'])
def test_an_id_that_is_no_text_is_what_json_calls_it(id_: str) -> None:
    (row,) = inputs("ndjson", b'{"id": %s, "image": "eA=="}' % id_.encode())
    assert (row.id, row.content()) == (id_, b"x")


@pytest.mark.parametrize("id_", [True, 5, 1.5])
def test_a_column_of_ids_that_are_no_texts_is_what_json_calls_them(id_: object) -> None:
    assert [each.id for each in inputs("parquet", table({"image": [b"x"], "id": [id_]}))] == [json.dumps(id_)]


@pytest.mark.parametrize("id_", [None, float("nan")])
def test_an_id_that_is_null_in_json_is_absent(id_: object) -> None:
    column = pyarrow.array([id_], pyarrow.float64())
    assert [each.id for each in inputs("parquet", table({"image": [b"x"], "id": column}))] == [None]


def test_an_id_that_json_has_no_kind_for_is_a_text() -> None:
    column = pyarrow.array([1], pyarrow.date32())
    assert [each.id for each in inputs("parquet", table({"image": [b"x"], "id": column}))] == ["1970-01-02"]


@pytest.mark.parametrize("kind", ["ndjson", "parquet"])
def test_an_id_that_is_too_long_is_refused_as_an_archive_s_path_is(kind: str) -> None:
    fits, long = "a" * 1024, "a" * 1024 + "b"
    first, second = inputs(kind, PACKERS[kind]([(fits, b"x"), (long, b"y")]))
    assert (first.id, first.content()) == (fits, b"x")
    assert (second.id, str(second.content())) == (fits, "An id may have 1024 characters at most; shorten it.")


def test_an_id_that_is_too_long_is_told_even_where_there_is_no_image() -> None:
    (row,) = inputs("ndjson", b'{"id": "%s", "error": "The link leads nowhere."}' % (b"a" * 1025))
    assert str(row.content()) == "An id may have 1024 characters at most; shorten it."


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=300))
def test_any_bytes_are_rows_or_errors(content: bytes) -> None:
    outcomes("ndjson", content)


def test_a_binary_column_will_do() -> None:
    assert outcomes("parquet", table({"image": [b"x", None]})) == [
        (None, b"x"),
        (None, "The row has no image: its cell holds no bytes."),
    ]


def test_a_struct_without_bytes_or_without_value_has_an_error_in_its_place() -> None:
    for rows in ([{"path": "a"}], [{"bytes": b"x", "path": "a"}, None]):
        assert outcomes("parquet", table({"image": rows}))[-1][1] == "The row has no image: its cell holds no bytes."


def test_ids_may_be_bytes() -> None:
    packed = table({"image": [b"x", b"y"], "id": [b"a.png", b"\xff"]})
    assert [each.id for each in inputs("parquet", packed)] == ["a.png", "�"]


@pytest.mark.parametrize("name", ["image", "id", "label"])
def test_two_columns_of_one_name_are_refused(name: str) -> None:
    names = ["image", "id", "label", name]
    stream = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array([b"x"])] * 4, names), stream)
    with pytest.raises(InvalidSource, match=f"two columns `{name}`"):
        outcomes("parquet", stream.getvalue())


def test_labels_are_text_or_numbers_with_names_beside_them() -> None:
    names = json.dumps({"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}})
    numbers = table({"img": [b"x", b"y", b"z"], "label": [1, 0, 2]}, {"huggingface": names})
    assert [each.truth for each in inputs("parquet", numbers)] == ["dog", "cat", None]
    text = table({"image": [b"x"], "label": ["cat"]})
    assert [each.truth for each in inputs("parquet", text)] == ["cat"]
    assert [each.truth for each in inputs("parquet", table({"image": [b"x"], "label": [1]}))] == [None]


def test_a_table_without_images_is_refused() -> None:
    with pytest.raises(InvalidSource, match="no column `image`"):
        outcomes("parquet", table({"picture": [b"x"]}))


def test_a_table_that_is_cut_off_is_refused() -> None:
    packed = as_parquet(PICTURES)
    for cut in range(0, len(packed), 7):
        with pytest.raises(InvalidSource):
            outcomes("parquet", packed[:cut])


def test_a_table_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.jobs.inputs.GRACE_BYTES", 1 << 20)
    packed = table({"image": [bytes(1 << 20)] * 200})
    tracemalloc.start()
    with pytest.raises(InvalidSource, match="unpacks to far more"):
        outcomes("parquet", packed, Limits(max_ratio=10))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 << 20


@pytest.mark.parametrize(("image_bytes", "most"), [(900, 64), (20_000, 3), (100_000, 1)])
def test_no_more_rows_are_in_memory_than_have_room_where_they_are_largest(
    image_bytes: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BYTES_AT_ONCE", 64 << 10)
    sizes = list[int]()
    monkeypatch.setattr(Budget, "spend", lambda _, bytes_: sizes.append(bytes_))
    stream = io.BytesIO()
    with parquet.ParquetWriter(stream, pyarrow.schema({"image": pyarrow.binary()})) as writer:
        for size, count in ((1, 1000), (0, 0), (image_bytes, 100)):
            rows = pyarrow.table({"image": [os.urandom(size) for _ in range(count)]}, writer.schema)
            writer.write_table(rows)
    assert len(outcomes("parquet", stream.getvalue())) == 1100
    assert max(sizes) // image_bytes == most


def test_images_in_a_dictionary_are_read_from_all_row_groups() -> None:
    cells = pyarrow.array([content for _, content in PICTURES]).dictionary_encode()
    stream, rows = io.BytesIO(), pyarrow.StructArray.from_arrays([cells], ["bytes"])
    parquet.write_table(pyarrow.table({"image": rows}), stream, row_group_size=2)
    assert outcomes("parquet", stream.getvalue()) == [(None, content) for _, content in PICTURES]


def test_a_table_of_nothing_has_no_rows() -> None:
    assert outcomes("parquet", table({"image": pyarrow.array([], pyarrow.binary())})) == []


def test_a_table_that_takes_more_memory_than_there_is_is_not_said_to_be_damaged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise pyarrow.ArrowMemoryError("malloc of size 2147483648 failed")

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", fails)
    with pytest.raises(InvalidSource, match="takes too much memory; write it with fewer rows in a row group"):
        outcomes("parquet", as_parquet(PICTURES))


def test_without_pyarrow_the_answer_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = as_parquet(PICTURES)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InvalidSource, match="extra `parquet`"):
        outcomes("parquet", packed)


def test_an_id_that_is_nested_too_deeply_to_be_written_is_refused_alone() -> None:
    deep = b'{"id": ' + b"[" * 300 + b"]" * 300 + b', "image": ""}\n'
    (id_, error), other = outcomes("ndjson", deep + as_ndjson([("b", b"second")]))
    assert id_ is None
    assert "can't be written as JSON; send a text." in str(error)
    assert other == ("b", b"second")


def test_bytes_within_an_id_are_text_too() -> None:
    assert outcomes("parquet", table({"id": [[b"x", b"y"]], "image": [b"first"]})) == [('["x","y"]', b"first")]
