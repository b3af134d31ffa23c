"""Numbers of the command line."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from service.bench.bounds import amount, whole


@pytest.mark.parametrize("text", ["1", "10"])
def test_whole_numbers_within_the_bounds_are_read(text: str) -> None:
    assert whole(10)(text) == int(text)


@pytest.mark.parametrize("text", ["0", "11", "-1", "1.5", "", "many", "\u00b2", "9" * 5000])
def test_other_whole_numbers_are_told_what_they_must_be(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"^must be a whole number from 1 to 10$"):
        whole(10)(text)


@pytest.mark.parametrize("text", ["0.5", "1e1"])
def test_amounts_within_the_bounds_are_read(text: str) -> None:
    assert amount("seconds", 10)(text) == float(text)


@pytest.mark.parametrize("text", ["0", "-1", "10.1", "nan", "inf", "", "soon", "9" * 5000])
def test_other_amounts_are_told_what_they_must_be(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"^must be a number of seconds above 0, 10 at most$"):
        amount("seconds", 10)(text)
