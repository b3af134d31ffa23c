"""Rows that steps measured → one JSON file, renewed after each of them, and a table. The standard library alone."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["done", "skipped", "failed"]
NOTE = 100  # characters of a note in the table; the JSON has all
VERDICTS = {True: "met", False: "NOT MET", None: ""}


@dataclass(frozen=True)
class Row:
    """One thing that was found out."""

    name: str
    value: float | str
    unit: str = ""
    spread: float | None = None  # interquartile range over median, where something was measured several times
    goal: str = ""
    met: bool | None = None
    note: str = ""


def at_least(goal: float, name: str, value: float, unit: str = "", **more: Any) -> Row:  # noqa: ANN401 - a row's other fields
    """A row whose value must not be smaller."""
    return Row(name, value, unit, goal=f"≥ {goal:,g}", met=value >= goal, **more)


def at_most(goal: float, name: str, value: float, unit: str = "", **more: Any) -> Row:  # noqa: ANN401 - a row's other fields
    """A row whose value must not be larger."""
    return Row(name, value, unit, goal=f"≤ {goal:,g}", met=value <= goal, **more)


def holds(name: str, fact: bool, note: str = "") -> Row:
    """A row that is true or a failure."""
    return Row(name, "yes" if fact else "no", goal="yes", met=fact, note=note)


@dataclass(frozen=True)
class Outcome:
    """What became of one step."""

    status: Status
    rows: tuple[Row, ...] = ()
    note: str = ""  # why it was skipped or failed
    seconds: float = 0.0

    @classmethod
    def of(cls, record: dict[str, Any]) -> Outcome:
        """From what `asdict` made of it."""
        return cls(**{**record, "rows": tuple(Row(**row) for row in record["rows"])})


@dataclass
class Report:
    """Everything found so far on one machine, by section/step.

    Whatever is added is on the disk when `add` returns, as JSON and as a table beside it.
    """

    path: Path
    machine: dict[str, str]
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, machine: dict[str, str]) -> Report:
        """The report at `path`, to go on with; a new one where there is none, or it is of another machine or code.

        That one is not lost: it gets a number. What a lent machine has shown may never be measured again.
        """
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["machine"] == machine:
                return cls(path, machine, {step: Outcome.of(record) for step, record in found["steps"].items()})
            numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(1))
            path.rename(next(other for other in numbered if not other.exists()))
        return cls(path, machine)

    def add(self, step: str, outcome: Outcome) -> None:
        """Take in what became of a step; a crash leaves the report without it, or with all of it."""
        self.outcomes[step] = outcome
        record = {"machine": self.machine, "steps": {step: asdict(each) for step, each in self.outcomes.items()}}
        partial = self.path.with_name(self.path.name + ".partial")
        with partial.open("w", encoding="utf-8") as stream:
            json.dump(record, stream, indent=1, ensure_ascii=False)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(self.path)
        self.path.with_suffix(".txt").write_text(table(self) + "\n", encoding="utf-8")

    def rows(self, step: str) -> tuple[Row, ...]:
        """What a step has found; nothing of one that has not run."""
        return self.outcomes[step].rows if step in self.outcomes else ()

    def undone(self, steps: Iterable[str]) -> list[str]:
        """Those still to run: at first what never did, so that what hangs each time keeps none from its turn.

        What was skipped is tried again as what failed is: the data or library that it lacked may have come.
        """
        left = [step for step in steps if step not in self.outcomes or self.outcomes[step].status != "done"]
        return sorted(left, key=lambda step: step in self.outcomes)

    @property
    def failed(self) -> bool:
        """Whether something broke, or a goal was not met."""
        return any(o.status == "failed" or any(row.met is False for row in o.rows) for o in self.outcomes.values())


def table(report: Report) -> str:
    """The report as lines of text."""
    lines: list[tuple[str, ...]] = [("step", "what", "value", "goal", "", "")]
    for step, outcome in report.outcomes.items():
        if outcome.status != "done":
            lines.append(
                (step, outcome.status.upper() if outcome.status == "failed" else "skipped", "", "", "", outcome.note)
            )
        lines += [(step, row.name, _value(row), row.goal, VERDICTS[row.met], _short(row.note)) for row in outcome.rows]
    return "\n".join(_aligned(lines))


def _aligned(lines: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(
            cell.rjust(width) if place == 2 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()


def _short(note: str) -> str:
    return note if len(note) <= NOTE else note[: NOTE - 1] + "…"


def _value(row: Row) -> str:
    if isinstance(row.value, str):
        return row.value
    digits = f"{row.value:,.0f}" if abs(row.value) >= 1000 else f"{row.value:.4g}"
    spread = f" ±{row.spread / 2:.0%}" if row.spread is not None else ""
    return f"{digits} {row.unit}{spread}".replace(" %", "%").replace("  ", " ").strip()
