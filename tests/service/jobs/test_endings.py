"""What a run of `convoy score` says in the end."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from service.errors import StartupError
from service.jobs.endings import INTERRUPTED, account, finish, interrupted, tell_all
from service.jobs.ledger import Ledger
from service.jobs.results import RESULTS
from service.jobs.tally import Tally


def test_the_account_is_of_this_run_and_of_all_rows() -> None:
    assert account(10, 2.0, 10, 0) == "10 images in 2.0 s: 5 images/s; 10 scored, 0 failed"
    assert account(10, 2.0, 30, 1).endswith("5 images/s; in all 29 scored, 1 failed, see `error` in the output")


def test_without_rows_there_is_no_output(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "out.csv", "same")
    with closing(ledger), pytest.raises(StartupError, match="There was nothing to score"):
        finish(ledger, RESULTS["csv"].encoder((), False))
    assert not (tmp_path / "out.csv").exists()


def test_the_account_goes_to_stderr_and_the_summary_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell_all("done", Tally(("red",)), 2, 1) == 0
    out, error = capsys.readouterr()
    assert (out.startswith("red"), error) == (True, "done\n")


def test_where_all_rows_are_errors_the_run_has_failed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StartupError, match="Nothing could be scored"):
        tell_all("done", None, 2, 2)
    assert capsys.readouterr().err == "done\n"


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(Ledger(tmp_path / "out.csv", "same")) as ledger:
        assert interrupted(ledger) == INTERRUPTED == 130
    assert capsys.readouterr().err == "Interrupted after 0 images; the same command goes on from there.\n"
