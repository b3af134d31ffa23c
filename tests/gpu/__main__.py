"""`make gpu-check`: what CUDA does with Convoy on this machine, measured and judged; on the CPU what can be seen there.

    python -m tests.gpu --wheels FOLDER --data cifar-10-batches-py

FOLDER holds wheels for this interpreter, whole or in parts (`--split WHEEL` cuts one); nothing is downloaded. A step is
in the report as soon as it has ended, and the same command goes on with those that are missing: `--minutes 9` ends in
time for whoever is stopped after ten.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tests.gpu import wheels
from tests.gpu.report import Outcome, Report, table
from tests.gpu.steps import ROOT, SECTIONS, Options, names, run, step_named

LIMIT = 4  # times what a step should take: then it hangs
MEMORY_MINUTES_LEAST = 5.0  # less would show no growth
PART_BYTES = 36 << 20  # so that this source and a part are less than 64 MiB


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m tests.gpu", description="Check Convoy on a GPU.")
    top.add_argument("--wheels", type=Path, metavar="FOLDER", help="install these first, beside the interpreter's own")
    top.add_argument("--split", type=Path, metavar="FILE", help="only cut FILE into parts, in the folder --wheels")
    top.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas (default: %(default)s)")
    top.add_argument("--minutes", type=float, default=math.inf, help="begin no step that would end later")
    top.add_argument("--again", action="store_true", help="run also what the report has already")
    top.add_argument("--report", type=Path, default=Path("runs/gpu/report.json"), help="(default: %(default)s)")
    top.add_argument("--model", default=Options.model, help="(default: %(default)s)")
    top.add_argument(
        "--data", help="CIFAR-10's folder, or an .npz with images and labels (default: generated pictures)"
    )
    top.add_argument("--small", action="store_true", help="little of everything, to see that it runs")
    top.add_argument(
        "--memory-minutes", type=float, default=Options.memory_minutes, help="at most (default: %(default)s)"
    )
    top.add_argument("--trainings", type=int, default=Options.trainings, help="(default: %(default)s)")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for and not yet in the report; status 1 when something broke or a goal was not met."""
    given, began = parser().parse_args(arguments), time.monotonic()
    if given.split:
        return _split(given.split, given.wheels)
    sections = given.only.split(",")
    if unknown := set(sections) - SECTIONS.keys():
        print(f"There is no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}.", file=sys.stderr)
        return 2
    work = given.report.parent
    work.mkdir(parents=True, exist_ok=True)
    site = work.resolve() / "site" if given.wheels else None
    if site:
        try:
            wheels.install(given.wheels, site)
        except (wheels.Incomplete, subprocess.CalledProcessError) as exc:
            print(f"The wheels can't be installed: {exc}.", file=sys.stderr)
            return 2
        print(f"installed after {time.monotonic() - began:.0f} s", flush=True)
    options = Options(given.model, given.data, str(work), given.small, _memory_minutes(given), given.trainings)
    report, environment = Report.open(given.report, machine(given.small)), wheels.environment(site, ROOT)
    for name in _to_do(report, names(sections), given.again):
        expected = _expected(name, options)
        left = math.inf if step_named(name).anew else given.minutes * 60 - (time.monotonic() - began)
        if left < expected:
            where = "for the next call" if expected <= 60 * given.minutes else "for one with more --minutes"
            print(f"{name} needs {expected:.0f} s and {max(left, 0):.0f} s are left: {where}", flush=True)
            continue
        rows: dict[str, object] = {step: [asdict(row) for row in o.rows] for step, o in report.outcomes.items()}
        outcome = _outcome(report, name, options, rows, environment, min(left, LIMIT * expected))
        report.add(name, outcome)
        print(f"{name}: {outcome.status} after {outcome.seconds:.1f} s {outcome.note}", flush=True)
    print(f"\n{table(report)}\n\n{given.report}")
    return int(report.failed)


def _split(file: Path, folder: Path | None) -> int:
    if not folder:
        print("Name the folder for the parts with --wheels.", file=sys.stderr)
        return 2
    try:
        print(f"{wheels.split(file, folder, PART_BYTES)} parts in {folder}")
    except OSError as exc:
        print(f"{file} can't be cut: {exc.strerror}.", file=sys.stderr)
        return 2
    return 0


def _to_do(report: Report, chosen: list[str], again: bool) -> list[str]:
    """What is missing, or with `again` all that was chosen; last what is judged from the others, whatever is known."""
    judged = [name for name in chosen if step_named(name).anew]
    return [*(name for name in (chosen if again else report.undone(chosen)) if name not in judged), *judged]


def _memory_minutes(given: argparse.Namespace) -> float:
    """As asked, or less: what a call of `--minutes` has room for at its beginning, with a minute to spare."""
    room = given.minutes - step_named("service/memory").seconds / 60 - 1
    return float(min(given.memory_minutes, max(room, MEMORY_MINUTES_LEAST)))


def _expected(name: str, options: Options) -> float:
    extra = 60 * options.memory_minutes if name == "service/memory" else 0.0
    return step_named(name).seconds + extra + (12.0 * options.trainings if name == "training/fast" else 0.0)


def _outcome(
    report: Report, name: str, options: Options, rows: dict[str, object], environment: dict[str, str], limit_s: float
) -> Outcome:
    if missing := [step for step in step_named(name).after if not report.rows(step)]:
        return Outcome("skipped", note=f"skipped: nothing is known from {', '.join(missing)}")
    return run(name, options, rows, environment, limit_s)


def machine(small: bool) -> dict[str, str]:
    """What the report's numbers belong to: another machine, source or size of work begins another report."""
    return {
        "gpu": _said("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader") or "none",
        "python": platform.python_version(),
        "source": _said("git", "describe", "--always", "--dirty") or _digest(),
        "work": "small" if small else "full",
    }


def _digest() -> str:
    """Names the measured source where it came without its history."""
    digest = hashlib.sha256()
    for path in sorted(path for room in ("service", "training") for path in (ROOT / room).rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return f"files {digest.hexdigest()[:12]}"


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


if __name__ == "__main__":
    sys.exit(main())
