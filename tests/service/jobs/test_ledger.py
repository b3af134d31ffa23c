"""Rows → an output file that is whole or not there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from service.errors import StartupError
from service.jobs.ledger import Ledger
from service.jobs.results import RESULTS

ENCODER = RESULTS["ndjson"].encoder(())
OpenLedger = Callable[..., Ledger]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[OpenLedger]:
    """Opens the ledger of one file as often as it is asked to, and closes all in the end."""
    with ExitStack() as stack:
        yield lambda fingerprint="x", name="out": stack.enter_context(closing(Ledger(tmp_path / name, fingerprint)))


def test_the_output_appears_whole_and_nothing_is_left_beside_it(ledger: OpenLedger, tmp_path: Path) -> None:
    rows = ledger(name="out.ndjson")
    rows.append(b"1\n2\n", 2)
    rows.commit({})
    assert not (tmp_path / "out.ndjson").exists()
    rows.finish(ENCODER)
    assert [path.name for path in tmp_path.iterdir()] == ["out.ndjson"]
    assert (tmp_path / "out.ndjson").read_bytes() == b"1\n2\n"


def test_what_was_not_committed_is_cut_off(ledger: OpenLedger, tmp_path: Path) -> None:
    first = ledger()
    first.append(b"1\n", 1)
    first.commit({"last": "a"})
    first.append(b"2\nhal", 1)
    second = ledger()
    assert (second.rows, second.kept) == (1, {"last": "a"})
    second.append(b"2\n", 1)
    second.commit({})
    second.finish(ENCODER)
    assert (tmp_path / "out").read_bytes() == b"1\n2\n"


def test_rows_of_another_run_are_not_gone_on_with(ledger: OpenLedger) -> None:
    first = ledger()
    first.commit({})
    with pytest.raises(StartupError, match="delete it to start afresh"):
        ledger("y")


@pytest.mark.parametrize("lost", ["rows", "record", "half the rows", "half the record"])
def test_what_a_crash_left_useless_is_begun_again(ledger: OpenLedger, tmp_path: Path, lost: str) -> None:
    first = ledger()
    first.append(b"1\n" * 100, 100)
    first.commit({})
    path = tmp_path / ("out.partial" if lost.endswith("rows") else "out.partial.json")
    if lost.startswith("half"):
        path.write_bytes(path.read_bytes()[:50])
    else:
        path.unlink()
    assert ledger().rows == 0


def test_a_full_disk_is_one_sentence(ledger: OpenLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    rows = ledger()
    rows.append(b"1\n", 1)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StartupError, match="No space left on device"):
        rows.commit({})


def test_a_folder_that_is_not_there_is_one_sentence(ledger: OpenLedger) -> None:
    with pytest.raises(StartupError, match="No such file"):
        ledger(name="nowhere/out")
