"""Outcomes → rows → files of every format."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

import numpy as np
import pytest
from pyarrow import parquet

from service.errors import InvalidImage, NotAcceptable
from service.jobs.results import RESULTS, rows
from service.prediction import ModelIdentity, Prediction
from tests.conftest import COLOURS

IDENTITY = ModelIdentity("colours", "1", "sha256:0", COLOURS)
SURE = Prediction(IDENTITY, np.array([0.7, 0.1, 0.2], np.float32), 0)
BAD = InvalidImage("Send an image.")


def encoded(name: str, lines: Sequence[bytes], sets: bool = False) -> bytes:
    encoder = RESULTS[name].encoder(COLOURS, sets)
    return b"".join([*map(encoder.encode, lines), encoder.end()])


def test_a_row_says_what_a_prediction_is() -> None:
    (row,) = rows(7, ["a"], [SURE], None).splitlines()
    assert json.loads(row) == {
        "index": 7,
        "id": "a",
        "label": "red",
        "probability": 0.7,
        "probabilities": {"red": 0.7, "green": 0.1, "blue": 0.2},
    }


def test_a_bad_image_is_a_row_with_its_error() -> None:
    (row,) = rows(0, [None], [BAD], None).splitlines()
    error = {"type": "invalid-image", "title": "Not an image", "detail": "Send an image."}
    assert json.loads(row) == {"index": 0, "id": None, "error": error}


def test_top_k_leaves_the_most_probable_in_falling_order() -> None:
    assert list(json.loads(rows(0, ["a"], [SURE], 2))["probabilities"]) == ["red", "blue"]


def test_with_a_threshold_a_row_has_a_prediction_set_and_an_error_has_none() -> None:
    first, second = map(json.loads, rows(0, ["a", "b"], [SURE, BAD], 1, 0.15).splitlines())
    assert first["prediction_set"] == ["red", "blue"]
    assert set(second) == {"index", "id", "error"}


def test_ndjson_is_the_rows_themselves() -> None:
    lines = rows(0, ["a", "b"], [SURE, BAD], None)
    assert encoded("ndjson", [lines]) == lines


@pytest.mark.parametrize("pieces", [1, 2])
def test_csv_has_a_column_per_class(pieces: int) -> None:
    lines = rows(0, ['a,"b"', "c"], [SURE, BAD], 2).splitlines(keepends=True)
    content = encoded("csv", lines if pieces == 2 else [b"".join(lines)])
    first, second = csv.DictReader(io.StringIO(content.decode(), newline=""))
    assert (first["id"], first["label"], first["probability"]) == ('a,"b"', "red", "0.7")
    assert (first["probabilities.red"], first["probabilities.green"], first["probabilities.blue"]) == ("0.7", "", "0.2")
    assert (second["index"], second["error"], second["detail"]) == ("1", "invalid-image", "Send an image.")


def test_csv_has_prediction_sets_as_json_where_they_were_asked_for() -> None:
    content = encoded("csv", [rows(0, ["a", "b"], [SURE, BAD], None, 0.15)], sets=True)
    first, second = csv.DictReader(io.StringIO(content.decode(), newline=""))
    assert (first["prediction_set"], second["prediction_set"]) == ('["red","blue"]', "")
    assert (first["detail"], first["probabilities.red"], second["detail"]) == ("", "0.7", "Send an image.")
    assert b"prediction_set" not in encoded("csv", [rows(0, ["a"], [SURE], None)])


def test_parquet_has_them_as_lists() -> None:
    content = encoded("parquet", [rows(0, ["a", "b"], [SURE, BAD], None, 0.15)], sets=True)
    assert parquet.read_table(io.BytesIO(content))["prediction_set"].to_pylist() == [["red", "blue"], None]
    assert "prediction_set" not in parquet.read_table(io.BytesIO(encoded("parquet", []))).schema.names


def test_parquet_has_the_fields_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.jobs.results.ROWS_PER_GROUP", 3)
    lines = [rows(first, ["a", "b"], [SURE, BAD], None) for first in range(0, 10, 2)]
    file = parquet.ParquetFile(io.BytesIO(encoded("parquet", lines)))
    found = file.read().to_pylist()
    assert file.num_row_groups == 3
    assert [row["index"] for row in found] == list(range(10))
    assert found[0]["probabilities"] == pytest.approx({"red": 0.7, "green": 0.1, "blue": 0.2})
    assert (found[0]["error"], found[1]["label"]) == (None, None)
    assert found[1]["error"]["type"] == "invalid-image"


@pytest.mark.parametrize("sets", [False, True])
@pytest.mark.parametrize("name", RESULTS)
def test_no_rows_are_a_file_too(name: str, sets: bool) -> None:
    content = encoded(name, [], sets)
    if name == "parquet":
        assert parquet.read_table(io.BytesIO(content)).num_rows == 0
    else:
        assert content.count(b"\n") == (name == "csv")


def test_without_pyarrow_the_answer_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(NotAcceptable, match="extra `parquet`"):
        RESULTS["parquet"].encoder(COLOURS, False)
