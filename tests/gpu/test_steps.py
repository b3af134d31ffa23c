"""Steps run by processes of their own: one that breaks or hangs costs nothing but its own rows."""

from __future__ import annotations

import importlib
import os
import re
import select
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.gpu import __main__ as command
from tests.gpu import steps, wheels
from tests.gpu.report import Outcome, Report, Row
from tests.gpu.steps import ROOT, SECTIONS, Options, Skip, Step
from tests.gpu.subject import Context


def succeeds(context: Context) -> Iterator[Row]:
    yield Row("one thing", 1.5)
    yield Row("known before", float(context.rows["a/before"][0].value))


def is_skipped(_context: Context) -> Iterator[Row]:
    yield Row("nobody sees this", 1)
    raise Skip("there is no GPU")


def needs_torch(_context: Context) -> Iterator[Row]:
    raise ModuleNotFoundError("No module named 'torch'", name="torch")


def breaks(_context: Context) -> Iterator[Row]:
    os._exit(9)


def hangs(_context: Context) -> Iterator[Row]:
    threading.Event().wait()
    yield Row("never", 1)


def leaves_a_server(_context: Context) -> Iterator[Row]:
    server = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield Row("server", server.pid)


@pytest.fixture
def section(monkeypatch: pytest.MonkeyPatch) -> None:
    """A section of the functions above."""
    functions = (succeeds, is_skipped, needs_torch, breaks, hangs, leaves_a_server)
    steps_of_it = {each.__name__: Step(f"test_steps.{each.__name__}", 1) for each in functions}
    monkeypatch.setattr(steps, "SECTIONS", {"a": steps_of_it})


@pytest.mark.usefixtures("section")
@pytest.mark.parametrize(
    ("name", "limit_s", "expected"),
    [
        ("succeeds", 60, Outcome("done", (Row("one thing", 1.5), Row("known before", 2.0)))),
        ("is_skipped", 60, Outcome("skipped", note="skipped: there is no GPU")),
        ("needs_torch", 60, Outcome("skipped", note="skipped: torch is not there")),
        ("breaks", 60, Outcome("failed", note="exit status 9")),
        ("hangs", 0.1, Outcome("failed", note="stopped after 0 s")),
    ],
)
def test_what_becomes_of_a_step(name: str, limit_s: float, expected: Outcome) -> None:
    rows = {"a/before": [{"name": "before", "value": 2.0}]}
    got = steps.run(f"a/{name}", Options(), rows, wheels.environment(None, ROOT), limit_s)
    assert (got.status, got.rows, got.note) == (expected.status, expected.rows, expected.note)


@pytest.mark.usefixtures("section")
def test_what_a_step_leaves_running_is_ended() -> None:
    (row,) = steps.run("a/leaves_a_server", Options(), {}, wheels.environment(None, ROOT), 60).rows
    with suppress(ProcessLookupError):  # ended, and seen by whoever inherited it
        server = os.pidfd_open(int(row.value))
        ended, _, _ = select.select([server], [], [], 30)
        os.close(server)
        assert ended


def test_every_step_has_its_function() -> None:
    for section in SECTIONS.values():
        for step in section.values():
            module, _, name = step.function.partition(".")
            assert callable(getattr(importlib.import_module(f"tests.gpu.{module}"), name))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that the command line has run; each takes no time and finds one thing."""
    ran: list[str] = []

    def run(name: str, *_: object) -> Outcome:
        ran.append(name)
        return Outcome("done", (Row("one thing", 1.0),))

    monkeypatch.setattr(command, "run", run)
    return ran


def test_the_next_call_goes_on_with_what_is_missing(recorded: list[str], tmp_path: Path) -> None:
    given = ["--report", str(tmp_path / "report.json"), "--only", "parity"]
    Report.open(tmp_path / "report.json", command.machine(False)).add("parity/fp32", Outcome("done"))
    assert command.main(given) == 0
    assert recorded == ["parity/fp16", "parity/imported"]
    recorded.clear()
    assert command.main([*given, "--again"]) == 0
    assert recorded == ["parity/fp32", "parity/fp16", "parity/imported"]


def test_no_step_is_begun_that_would_end_too_late(
    recorded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--report", str(tmp_path / "report.json"), "--only", "service", "--minutes", "0.9"]
    assert command.main(given) == 0
    assert recorded == ["service/latency", "service/first"]
    assert "service/bulk needs 150 s" in capsys.readouterr().out


@pytest.mark.parametrize("minutes", [6.5, 9.0, 20.0])
def test_watching_memory_fits_a_call(recorded: list[str], tmp_path: Path, minutes: float) -> None:
    done = Report.open(tmp_path / "report.json", command.machine(False))
    for name in ("bulk", "single", "latency", "first"):
        done.add(f"service/{name}", Outcome("done"))
    given = ["--report", str(tmp_path / "report.json"), "--only", "service", "--minutes", str(minutes)]
    assert command.main(given) == 0
    assert recorded == ["service/memory"]
    told = command.parser().parse_args(given)
    assert command._memory_minutes(told) == {6.5: 5.0, 9.0: 7.0, 20.0: 10.0}[minutes]


def test_what_no_call_of_that_length_has_room_for_is_said(
    recorded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--report", str(tmp_path / "report.json"), "--only", "service", "--minutes", "2"]
    assert command.main(given) == 0
    assert "service/memory" not in recorded
    said = capsys.readouterr().out  # a machine that is busy has less than all of the 120 s left when it comes to that
    assert re.search(r"service/memory needs 360 s and \d+ s are left: for one with more --minutes", said)


def test_the_verdict_is_made_anew_of_whatever_is_known(recorded: list[str], tmp_path: Path) -> None:
    given = ["--report", str(tmp_path / "report.json"), "--only", "speed"]
    assert command.main([*given, "--minutes", "2"]) == 0
    assert recorded[-1] == "speed/verdict"
    assert "speed/torch-compiled" not in recorded
    del recorded[:]
    assert command.main(given) == 0
    assert recorded == ["speed/torch-compiled", "speed/torch-graphs", "speed/verdict"]
    del recorded[:]
    assert command.main([*given, "--minutes", "0"]) == 0
    assert recorded == ["speed/verdict"]


def test_a_section_that_does_not_exist_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--only", "sped"]) == 2
    assert capsys.readouterr().err.startswith("There is no section sped; there are provider, parity,")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--split", "absent.whl"], "Name the folder for the parts with --wheels.\n"),
        (["--split", "absent.whl", "--wheels", "w"], "absent.whl can't be cut: No such file or directory.\n"),
    ],
)
def test_what_cant_be_cut_is_a_sentence(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(options) == 2
    assert capsys.readouterr().err == said


def test_a_source_without_its_history_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "service").mkdir()
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    names = []
    for text in ("a = 1", "a = 1", "a = 2"):
        (tmp_path / "service" / "a.py").write_text(text)
        names.append(command.machine(False)["source"])
    assert names[0].startswith("files ")
    assert names[0] == names[1] != names[2]
