"""A report grows by whole steps, goes on where it was, and reads as a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.gpu.report import Outcome, Report, Row, at_least, at_most, holds, table

MACHINE = {"gpu": "none", "source": "abc"}


def test_a_report_that_is_opened_again_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    report = Report.open(tmp_path / "report.json", MACHINE)
    report.add("speed/fp32", Outcome("done", (Row("1", 7.5, "images/s", spread=0.02),), seconds=1.0))
    report.add("speed/fp16", Outcome("skipped", note="skipped: no GPU"))
    report.add("parity/fp32", Outcome("failed", note="it broke"))
    again = Report.open(tmp_path / "report.json", MACHINE)
    assert again.outcomes == report.outcomes
    steps = ["parity/fp32", "parity/fp16", "speed/fp32", "speed/fp16"]
    assert again.undone(steps) == ["parity/fp16", "parity/fp32", "speed/fp16"]
    again.add("parity/fp32", Outcome("done"))
    assert list(Report.open(tmp_path / "report.json", MACHINE).outcomes) == list(report.outcomes)


def test_another_machine_or_source_begins_another_report_and_leaves_the_others(tmp_path: Path) -> None:
    for source in ("abc", "def", "ghi"):
        report = Report.open(tmp_path / "report.json", {**MACHINE, "source": source})
        assert not report.outcomes
        report.add("parity/fp32", Outcome("done", note=source))
    kept = [json.loads((tmp_path / name).read_text()) for name in ("report-1.json", "report-2.json", "report.json")]
    assert [each["steps"]["parity/fp32"]["note"] for each in kept] == ["abc", "def", "ghi"]


def test_a_crash_while_writing_leaves_the_steps_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report.open(tmp_path / "report.json", MACHINE)
    report.add("parity/fp32", Outcome("done"))

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dump", crash)
    with pytest.raises(KeyboardInterrupt):
        report.add("parity/fp16", Outcome("done"))
    assert list(Report.open(tmp_path / "report.json", MACHINE).outcomes) == ["parity/fp32"]


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (at_least(50, "share", 50.0), True),
        (at_least(50, "share", 49.9), False),
        (at_most(1e-4, "difference", 1e-4), True),
        (at_most(1e-4, "difference", float("nan")), False),
        (holds("a fact", True), True),
        (holds("a fact", False), False),
    ],
)
def test_a_goal_is_met_or_not(row: Row, met: bool, tmp_path: Path) -> None:
    assert row.met is met
    report = Report(tmp_path / "report.json", MACHINE)
    report.add("a/step", Outcome("done", (row,)))
    assert report.failed is not met


def test_the_table_shows_every_row_skip_and_failure(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.json", MACHINE)
    rows = (at_least(300_000, "the most", 123_456.7, "images/s"), Row("1", 0.1234, "ms", spread=0.1))
    report.add("service/bulk", Outcome("done", rows))
    report.add("speed/fp16", Outcome("skipped", note="skipped: no GPU is visible"))
    report.add("parity/fp16", Outcome("failed", note="exit status -11"))
    lines = (tmp_path / "report.txt").read_text().splitlines()
    assert "\n".join(lines) == table(report)
    assert [line.split() for line in lines] == [
        ["step", "what", "value", "goal"],
        ["service/bulk", "the", "most", "123,457", "images/s", "≥", "300,000", "NOT", "MET"],
        ["service/bulk", "1", "0.1234", "ms", "±5%"],
        ["speed/fp16", "skipped", "skipped:", "no", "GPU", "is", "visible"],
        ["parity/fp16", "FAILED", "exit", "status", "-11"],
    ]
