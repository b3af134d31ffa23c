"""Predictions and truths → counts."""

from __future__ import annotations

import json

from service.jobs.inputs import Input
from service.jobs.tally import Tally
from tests.conftest import COLOURS


def tally() -> Tally:
    counted = Tally(COLOURS)
    counted.add([0, 0, 2, None, 1], ["red", "blue", "blue", "red", "purple"])
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
    counted.add([0, 0, 2], ["blue"] * 3)
    assert "accuracy 33.33% (1 of 3 with a known label)" in counted.text()


def test_without_truth_there_is_no_judgement() -> None:
    counted = Tally(COLOURS)
    counted.add([0], [None])
    assert "accuracy" not in counted.text()
    assert "failed" not in counted.text()


def test_no_inputs_are_a_summary_too() -> None:
    assert Tally(COLOURS).text().startswith("red")


def test_it_goes_on_from_its_record() -> None:
    restored = Tally(COLOURS)
    restored.restore(json.loads(json.dumps(tally().record())))
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
