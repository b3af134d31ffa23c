"""`python -m tests.gpu.step MODULE.FUNCTION ANSWER`: one step, told its options on stdin, its rows into a file."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.gpu.report import Outcome, Row
from tests.gpu.steps import Options, Skip
from tests.gpu.subject import Context


def main(function: str, answer: Path) -> None:
    """Run the function; whatever it raises but `Skip` ends this process, and that is its answer."""
    told = json.load(sys.stdin)
    context = Context(
        Options(**told["options"]), {step: [Row(**r) for r in rows] for step, rows in told["rows"].items()}
    )
    module, _, name = function.partition(".")
    try:
        outcome = Outcome("done", tuple(getattr(importlib.import_module(f"tests.gpu.{module}"), name)(context)))
    except Skip as skip:
        outcome = Outcome("skipped", note=f"skipped: {skip}")
    except ModuleNotFoundError as exc:  # the service needs no torch, so it may well not be there
        if exc.name != "torch":
            raise
        outcome = Outcome("skipped", note="skipped: torch is not there")
    partial = answer.with_name("partial")
    partial.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    partial.replace(answer)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
