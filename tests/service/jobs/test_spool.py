"""Inputs, kept so that any of them can be read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.errors import InvalidImage, InvalidSource
from service.jobs import results, spool
from service.jobs.inputs import Budget
from service.jobs.spool import RESULT_BYTES, SpoolWriter
from service.prediction import ModelIdentity, predictions

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


def test_what_lies_before_the_first_does_not_count(folder: Path) -> None:
    ids, _ = spool.read(folder, 1, 9, most_bytes=spool.size(folder) - 50)
    assert len(ids) == 3


def test_an_error_stays_an_error(folder: Path) -> None:
    (id_,), (error,) = spool.read(folder, 3, 1)
    assert id_ == "bad"
    assert isinstance(error, InvalidImage)
    assert error.detail == "Send an image."


def test_beyond_the_end_there_are_none(folder: Path) -> None:
    assert len(spool.read(folder, 2, 100)[0]) == 2


@pytest.mark.parametrize("name", [spool.INPUTS, spool.OFFSETS])
@pytest.mark.parametrize("left", [0, 20, 36])
@pytest.mark.parametrize("rest", [b"", b"\xff", b" "])
def test_what_is_damaged_is_told(name: str, left: int, rest: bytes, folder: Path) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:left] + rest * (len(whole) - left))
    with pytest.raises(spool.Damaged):
        spool.read(folder, 2, 2)


@pytest.mark.parametrize("full", ["inputs", "offsets"])
def test_nothing_is_left_where_it_fails(full: str, tmp_path: Path) -> None:
    (tmp_path / full).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space"), SpoolWriter(tmp_path) as writer:
        writer.sync() if full == "offsets" else writer.add("x", bytes(1 << 20))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [bytes(64), InvalidImage("x" * 64)])
def test_all_that_is_written_is_spent(content: bytes | InvalidImage, tmp_path: Path) -> None:
    """And what the results will take."""
    with SpoolWriter(tmp_path) as writer:
        for _ in range(60):
            writer.add("a", content)
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    with SpoolWriter(tmp_path, Budget(written + 60 * RESULT_BYTES)) as writer:
        for _ in range(60):
            writer.add("a", content)
        with pytest.raises(InvalidSource, match="more than there is room for"):
            writer.add("a", b"")


def test_its_size_is_that_of_its_files(folder: Path) -> None:
    kept = sum(path.stat().st_size for path in folder.iterdir())
    (folder / "results.ndjson").write_bytes(b"not of the inputs")
    assert spool.size(folder) == kept


@pytest.mark.parametrize("classes", [10, 1000])
@pytest.mark.parametrize("top_k", [None, 5, 5000])
@pytest.mark.parametrize("name", ["label", "étiquette", "метка"])
def test_what_a_row_of_results_will_take_is_known_before(classes: int, top_k: int | None, name: str) -> None:
    labels = tuple(f"{name} {number:04}" for number in range(classes))
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes), 20).astype(np.float32)
    outcomes = predictions(ModelIdentity("m", "1", "sha256:0", labels), probabilities)
    written = len(results.rows(0, ["folder/picture.png"] * 20, outcomes, top_k)) / 20
    assert written <= spool.row_bytes(labels, top_k) <= 1.3 * written
    threshold = float(np.quantile(probabilities, 0.8))
    written = len(results.rows(0, ["folder/picture.png"] * 20, outcomes, top_k, threshold)) / 20
    assert written <= spool.row_bytes(labels, top_k, classes / 5) <= 1.3 * written


def test_a_new_attempt_begins_afresh(folder: Path) -> None:
    with SpoolWriter(folder) as writer:
        writer.add("x", b"y")
    assert spool.read(folder, 0, 9) == (["x"], [b"y"])
