"""Rows → an output file that is whole or not there."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from service.errors import StartupError
from service.jobs.ledger import Ledger
from service.jobs.results import RESULTS

ENCODER = RESULTS["ndjson"].encoder((), False)
OpenLedger = Callable[..., Ledger]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[OpenLedger]:
    """Opens the ledger of one file as often as it is asked to, and closes all in the end."""
    with ExitStack() as stack:
        yield lambda fingerprint="x", name="out": stack.enter_context(closing(Ledger(tmp_path / name, fingerprint)))


def begun(ledger: OpenLedger, rows: bytes = b"1\n", count: int = 1) -> Ledger:
    """A ledger with rows that are certain."""
    first = ledger()
    first.append(rows, count, {"last": "a"})
    first.commit()
    return first


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_output_appears_whole_and_nothing_is_left_beside_it(ledger: OpenLedger, tmp_path: Path) -> None:
    rows = begun(ledger, b"1\n2\n", 2)
    assert not (tmp_path / "out").exists()
    rows.finish(ENCODER)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"1\n2\n"


def test_an_output_longer_than_a_block_is_made_of_whole_rows(
    ledger: OpenLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.ledger.BLOCK", 50)
    ids = [f"{number}.png" for number in range(20)]
    begun(ledger, b"".join(b'{"index":0,"id":"%s"}\n' % id_.encode() for id_ in ids), 20).finish(
        RESULTS["csv"].encoder((), False)
    )
    assert [line.split(",")[1] for line in (tmp_path / "out").read_text().splitlines()] == ["id", *ids]


def goes_on_after_the_first_row(again: Ledger, folder: Path) -> None:
    assert (again.rows, again.kept) == (1, {"last": "a"})
    again.append(b"2\n", 1, {})
    again.commit()
    again.finish(ENCODER)
    assert (folder / "out").read_bytes() == b"1\n2\n"


def test_what_was_not_committed_is_cut_off(ledger: OpenLedger, tmp_path: Path) -> None:
    first = begun(ledger)
    first.append(b"2\nhal", 1, {"last": "b"})
    first.close()
    goes_on_after_the_first_row(ledger(), tmp_path)


def test_what_is_kept_may_change_without_rows(ledger: OpenLedger) -> None:
    first = begun(ledger)
    first.keep({"last": "b"})
    first.close()
    second = ledger()
    assert (second.rows, second.kept) == (1, {"last": "b"})


def test_a_ledger_that_is_cleared_knows_nothing(ledger: OpenLedger) -> None:
    first = begun(ledger)
    first.clear()
    first.close()
    second = ledger()
    assert (second.rows, second.position, second.kept) == (0, 0, {})


def test_rows_of_another_run_are_not_gone_on_with(ledger: OpenLedger) -> None:
    begun(ledger).close()
    with pytest.raises(StartupError, match="delete it to start afresh"):
        ledger("y")


def test_another_run_that_left_no_row_is_in_nobodys_way(ledger: OpenLedger) -> None:
    first = ledger()
    first.keep({"last": None})
    first.close()
    assert (ledger("y").rows, ledger("y", "other").kept) == (0, {})


def test_two_runs_do_not_write_the_same_output(ledger: OpenLedger, tmp_path: Path) -> None:
    first = begun(ledger)
    with pytest.raises(StartupError, match="Another run is writing this output"):
        ledger()
    first.append(b"2\n", 1, {})
    first.commit()
    first.finish(ENCODER)
    assert (tmp_path / "out").read_bytes() == b"1\n2\n"


def test_a_run_that_waited_for_anothers_end_has_a_file_of_its_own(
    ledger: OpenLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens the other's file just before that is removed, and has its lock just after."""
    first, lock = begun(ledger), fcntl.flock

    def late(file: int, how: int) -> None:
        if first.rows and not (tmp_path / "out").exists():
            first.finish(ENCODER)
            first.close()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    second = ledger()
    assert second.rows == 0
    second.append(b"3\n", 1, {})
    second.commit()
    second.finish(ENCODER)
    assert (tmp_path / "out").read_bytes() == b"3\n"


def test_a_disk_without_locks_will_do(ledger: OpenLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    begun(ledger).close()
    assert ledger().rows == 1


@pytest.mark.parametrize("lost", ["rows", "record", "half the rows", "half the record"])
def test_what_a_crash_left_useless_is_begun_again(ledger: OpenLedger, tmp_path: Path, lost: str) -> None:
    begun(ledger, b"1\n" * 100, 100).close()
    path = tmp_path / ("out.partial" if lost.endswith("rows") else "out.partial.json")
    if lost.startswith("half"):
        path.write_bytes(path.read_bytes()[:50])
    else:
        path.unlink()
    assert ledger().rows == 0


def test_rows_that_were_written_by_half_are_not_counted(
    ledger: OpenLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, write = begun(ledger), os.pwrite

    def until_full(file: int, rows: bytes, position: int) -> int:
        if position > len(b"1\n"):
            full()
        return write(file, rows[: len(rows) // 2], position)

    with monkeypatch.context() as context:
        context.setattr(os, "pwrite", until_full)
        with pytest.raises(StartupError, match="No space left on device"):
            first.append(b"2\n3\n4\n", 3, {"last": "d"})
    first.commit()
    first.close()
    goes_on_after_the_first_row(ledger(), tmp_path)


def test_what_did_not_reach_the_disk_is_not_recorded_later(ledger: OpenLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    first = begun(ledger)
    first.append(b"2\n", 1, {})
    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        with pytest.raises(StartupError, match="No space left on device"):
            first.commit()
    first.commit()
    first.close()
    assert ledger().rows == 1


def test_an_output_that_found_no_room_leaves_what_it_took(
    ledger: OpenLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = begun(ledger)
    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        with pytest.raises(StartupError, match=r"No space left on device\. When that is mended, run the same command"):
            first.finish(ENCODER)
    first.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.partial", "out.partial.json"]
    goes_on_after_the_first_row(ledger(), tmp_path)


def test_a_folder_is_no_output(ledger: OpenLedger, tmp_path: Path) -> None:
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(StartupError, match=r"out\.csv is a folder; give --output the name of a file"):
        ledger(name="out.csv")


def test_a_folder_that_is_not_there_is_one_sentence(ledger: OpenLedger) -> None:
    with pytest.raises(StartupError, match=r"There is no folder .*nowhere for --output; make it, or choose another\."):
        ledger(name="nowhere/out")


def test_what_can_not_even_be_looked_for_is_one_sentence(ledger: OpenLedger) -> None:
    with pytest.raises(StartupError, match="can't be written: File name too long"):
        ledger(name="x" * 300)


def test_where_there_is_nothing_to_go_on_with_no_file_is_left(ledger: OpenLedger, tmp_path: Path) -> None:
    ledger().close()
    begun(ledger).close()
    cleared = ledger()
    cleared.clear()
    cleared.close()
    assert not [*tmp_path.iterdir()]
