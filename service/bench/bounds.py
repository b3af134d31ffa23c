"""Text of the command line → a number within bounds; argparse tells what it must be."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable


def whole(most: int) -> Callable[[str], int]:
    """Reads whole numbers from 1 to `most`."""

    def read(text: str) -> int:
        if not (text.isdecimal() and len(text) <= len(str(most)) and 1 <= int(text) <= most):
            raise ArgumentTypeError(f"must be a whole number from 1 to {most:,}")
        return int(text)

    return read


def amount(unit: str, most: int) -> Callable[[str], float]:
    """Reads numbers above 0, fractions among them, up to `most`."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not 0 < number <= most:
            raise ArgumentTypeError(f"must be a number of {unit} above 0, {most:,} at most")
        return number

    return read


connections = whole(65_535)  # from one address to another; there are no more ports
requests_per_second = whole(100_000)  # one process has no time for more
images = whole(65_536)
pixels = whole(4096)  # on each side
milliseconds = whole(86_400_000)  # a day
seconds = amount("seconds", 604_800)  # a week
fractions_of_ms = amount("milliseconds", 86_400_000)
