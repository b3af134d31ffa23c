"""Words on the command line → values. What can't be one raises `ArgumentTypeError`: argparse shows its sentence."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path

from training.recipes import SEEDS

MOST = 1_000_000_000  # of anything that is counted
LARGEST_SIZE = 1_024  # pixels: a thousand such images take 3 GB
DIGITS = 20  # are more than any of these has


def path(text: str) -> Path:
    """Not of nothing, which would be the current folder."""
    if not text:
        raise ArgumentTypeError("there is nothing between the quotes; name a file or folder")
    return Path(text)


def version_folder(text: str) -> Path:
    """A model's version; the folder that it lies in is its name, and so must be known though it is not written."""
    given = path(text)
    return given.resolve() if given.parent.name in ("", "..") else given


def positive(text: str) -> int:
    """A count."""
    return _whole(text, 1, MOST)


def size(text: str) -> int:
    """Pixels of the height and width of images."""
    return _whole(text, 1, LARGEST_SIZE)


def seed(text: str) -> int:
    """One of those that have random numbers of their own."""
    return _whole(text, 0, SEEDS - 1)


def seeds(text: str) -> int:
    """How many of those."""
    return _whole(text, 1, SEEDS)


def _whole(text: str, low: int, high: int) -> int:
    if not text.isdecimal() or len(text) > DIGITS or not low <= int(text) <= high:
        raise ArgumentTypeError(f"{text[:DIGITS]!r} is not a whole number from {low} to {high:,}")
    return int(text)
