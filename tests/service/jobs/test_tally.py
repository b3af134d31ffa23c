"""Predictions and truths → counts."""

from __future__ import annotations

import json

import pytest

from service.jobs.inputs import Input
from service.jobs.tally import Predicted, Tally
from tests.conftest import COLOURS

RED, GREEN, BLUE = (Predicted(label) for label in COLOURS)


def tally() -> Tally:
    counted = Tally(COLOURS)
    counted.add([RED, RED, BLUE, None, GREEN], ["red", "blue", "blue", "red", "purple"])
    return counted


def with_sets() -> Tally:
    counted = Tally(COLOURS, 0.95)
    sure, unsure, wrong = ("red",), ("red", "green"), ("green", "blue")
    sets = [Predicted("red", sure), Predicted("red", unsure), Predicted("green", wrong), None]
    counted.add(sets, ["red", "green", "red", "red"])
    return counted


def test_every_input_is_counted_once() -> None:
    counted = tally()
    assert (counted.images, counted.failed, dict(counted.predicted)) == (5, 1, {"red": 2, "blue": 1, "green": 1})


def test_the_summary_shows_shares_accuracy_and_confusion() -> None:
    assert tally().text().splitlines() == [
        "red           2   40.0%",
        "green         1   20.0%",
        "blue          1   20.0%",
        "failed        1   20.0%",
        "",
        "accuracy 66.67% (2 of 3 with a known label)",
        "",
        "truth    red  green   blue",
        "red        1      0      0",
        "blue       1      0      1",
    ]


def test_what_is_mostly_taken_for_something_else_is_mostly_wrong() -> None:
    counted = Tally(COLOURS)
    counted.add([RED, RED, BLUE], ["blue"] * 3)
    assert "accuracy 33.33% (1 of 3 with a known label)" in counted.text()


def test_without_truth_there_is_no_judgement() -> None:
    counted = Tally(COLOURS)
    counted.add([RED], [None])
    assert "accuracy" not in counted.text()
    assert "failed" not in counted.text()


def test_of_sets_it_says_how_large_they_are_and_how_often_they_hold_the_known_label() -> None:
    assert "prediction sets for 95%: 1.667 classes on average, the known label in 66.67%" in with_sets().text()


def test_without_truth_only_the_size_of_sets_is_known() -> None:
    counted = Tally(COLOURS, 0.9)
    counted.add([Predicted("red", ("red", "green"))], [None])
    assert counted.text().splitlines()[-1] == "prediction sets for 90%: 2.000 classes on average"


def test_without_coverage_nothing_is_said_of_sets() -> None:
    assert "sets" not in tally().text()


@pytest.mark.parametrize("coverage", [None, 0.9])
def test_no_inputs_are_a_summary_too(coverage: float | None) -> None:
    assert Tally(COLOURS, coverage).text().startswith("red")


def test_it_goes_on_from_its_record() -> None:
    restored = Tally(COLOURS, 0.95)
    restored.restore(json.loads(json.dumps(with_sets().record())))
    assert restored == with_sets()


def test_it_goes_on_from_a_record_that_knows_no_sets() -> None:
    restored, record = Tally(COLOURS), tally().record()
    restored.restore({name: record[name] for name in ("predicted", "failed", "confusion")})
    assert restored == tally()


def test_what_an_input_is_known_to_be_says_nothing_of_a_row_with_another_id() -> None:
    """A folder may have changed since a server was sent its pictures."""
    rows = [
        b'{"id":"a","label":"red"}',
        b'{"id":"b","label":"red"}',
        b'{"id":"c","error":{}}',
        b'{"id":"d","label":"red"}',
    ]
    inputs = [Input(id_, bytes, "red") for id_ in ("a", "new", "c")]
    counted = Tally(COLOURS)
    counted.add_rows(rows, inputs)
    assert (counted.images, counted.failed, counted.confusion) == (4, 1, {"red": {"red": 1}})


def test_rows_tell_their_sets() -> None:
    rows = [b'{"id":"a","label":"red","prediction_set":["red","blue"]}', b'{"id":"b","error":{}}']
    counted = Tally(COLOURS, 0.95)
    counted.add_rows(rows, [Input("a", bytes, "blue"), Input("b", bytes, "blue")])
    assert (counted.set_classes, counted.covered, counted.failed) == (2, 1, 1)
