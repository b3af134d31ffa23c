"""What is typed is a value within bounds, or a sentence that says which these are."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

import pytest

from training import arguments


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        (arguments.positive, 1, 1_000_000_000),
        (arguments.size, 1, 1_024),
        (arguments.seed, 0, 9_999),
        (arguments.seeds, 1, 10_000),
    ],
)
def test_a_number_lies_within_its_bounds(kind: Callable[[str], int], low: int, high: int) -> None:
    assert (kind(str(low)), kind(str(high))) == (low, high)
    for text in (str(low - 1), str(high + 1), "9" * 5_000, "0" * 20 + str(high + 1), "1.5", "1e3", "+1", "", "²"):
        with pytest.raises(ArgumentTypeError, match=f"is not a whole number from {low} to {high:,}$"):
            kind(text)


def test_a_path_is_of_something() -> None:
    assert arguments.path("a/b") == Path("a/b")
    for kind in (arguments.path, arguments.version_folder):
        with pytest.raises(ArgumentTypeError, match="nothing between the quotes"):
            kind("")


def test_a_version_has_a_folder_with_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert arguments.version_folder("models/tiny/1") == Path("models/tiny/1")
    assert arguments.version_folder("tiny/1") == Path("tiny/1")
    assert arguments.version_folder("1") == tmp_path.resolve() / "1"
    assert arguments.version_folder("../1") == tmp_path.resolve().parent / "1"
