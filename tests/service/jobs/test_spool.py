"""Inputs, kept so that any of them can be read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import InvalidImage
from service.jobs import spool
from service.jobs.spool import SpoolWriter

INPUTS: list[tuple[str | None, bytes]] = [("a", b"first"), (None, b""), ("ü", b"third" * 1000)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with SpoolWriter(tmp_path) as writer:
        for id_, content in INPUTS:
            writer.add(id_, content)
        writer.add("bad", InvalidImage("Send an image."))
        writer.sync()
    return tmp_path


@pytest.mark.parametrize(("first", "count"), [(0, 3), (0, 1), (1, 2), (2, 1)])
def test_any_of_them_can_be_read(folder: Path, first: int, count: int) -> None:
    ids, contents = spool.read(folder, first, count)
    assert list(zip(ids, contents, strict=True)) == INPUTS[first : first + count]


@pytest.mark.parametrize(("most_bytes", "expected"), [(0, 1), (42, 2), (1 << 20, 4)])
def test_only_so_many_bytes_are_read_at_once_but_one_input_always(folder: Path, most_bytes: int, expected: int) -> None:
    ids, contents = spool.read(folder, 0, 9, most_bytes=most_bytes)
    assert len(ids) == len(contents) == expected


def test_an_error_stays_an_error(folder: Path) -> None:
    (id_,), (error,) = spool.read(folder, 3, 1)
    assert id_ == "bad"
    assert isinstance(error, InvalidImage)
    assert error.detail == "Send an image."


def test_beyond_the_end_there_are_none(folder: Path) -> None:
    assert len(spool.read(folder, 2, 100)[0]) == 2


def test_a_new_attempt_begins_afresh(folder: Path) -> None:
    with SpoolWriter(folder) as writer:
        writer.add("x", b"y")
    assert spool.read(folder, 0, 9) == (["x"], [b"y"])
