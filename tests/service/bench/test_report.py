"""What people see of a run."""

from __future__ import annotations

import io
from array import array
from collections import Counter

from service.bench import report
from service.bench.load import Outcome


def outcome() -> Outcome:
    return Outcome(
        images_per_request=2,
        latencies_s=array("d", [i / 1000 for i in range(1, 101)]),
        statuses=Counter({200: 100, 503: 7, 0: 1}),
        seconds=4.0,
        late=3,
    )


def test_the_table_tells_good_from_bad() -> None:
    text = report.table(outcome())
    rows = dict(line.split("  ", 1) for line in text.splitlines())
    cells = {name.strip(): value.strip() for name, value in rows.items()}
    assert cells["requests"] == "108 in 4.0 s"
    assert cells["status 503"] == "7"
    assert cells["no answer"] == "1"
    assert cells["images per second"] == "50.0"
    assert cells["latency p50"] == "50.50 ms"
    assert cells["latency max"] == "100.00 ms"
    assert cells["never sent: no connection was free"] == "3"


def test_the_plot_has_every_answer_in_one_of_its_bars() -> None:
    counts = [int(line.rsplit(" ", 1)[1].replace(",", "")) for line in report.plot(outcome()).splitlines()]
    assert sum(counts) == 100


def test_the_bars_are_of_what_stdout_can_show() -> None:
    assert "█" in report.plot(outcome())
    shown = report.plot(outcome(), "ascii")
    assert "#" in shown
    assert shown.isascii()


def test_equal_latencies_can_be_plotted() -> None:
    same = outcome()
    same.latencies_s = array("d", [0.005] * 10)
    assert report.plot(same).endswith("10") or "10" in report.plot(same).splitlines()[0]


def test_a_run_without_an_answer_has_a_table_and_no_plot() -> None:
    nothing = Outcome(1, statuses=Counter({0: 5}), seconds=1.0)
    assert "latency" not in report.table(nothing)
    assert report.plot(nothing) == ""


def test_progress_is_quiet_without_a_terminal() -> None:
    stream = io.StringIO()
    report.progress(outcome(), stream)
    assert stream.getvalue() == ""
