"""What is checked, in which order: every step is a function that gives rows, run by a process of its own.

So a step may break the device, change its environment or hang, and the next one begins afresh.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.gpu.report import Outcome

ROOT = Path(__file__).parents[2]
FAILURE_LINES = 3


class Skip(Exception):
    """The step can't run here; the text says why."""


@dataclass(frozen=True)
class Step:
    """Where a step's function is, and how long it takes on a GPU: it is not begun with less time left."""

    function: str  # in a module of this package: module.function
    seconds: float
    after: tuple[str, ...] = ()  # steps whose rows it needs
    anew: bool = False  # in every call, at its end: it takes no time, and is worth what others have found by then


@dataclass(frozen=True)
class Options:
    """What every step is told."""

    model: str = "models/cifar10/9"
    data: str | None = None  # CIFAR-10's folder, or an .npz with `images` and `labels`; None: generated pictures
    work: str = "runs/gpu"
    small: bool = False  # little of everything, to see that it runs
    memory_minutes: float = 10.0
    trainings: int = 10


SECTIONS: Mapping[str, Mapping[str, Step]] = {
    "provider": {
        "placement": Step("provider.placement", 40),
        "hidden-device": Step("provider.hidden_device", 60),
        "missing-library": Step("provider.missing_library", 60),
        "said": Step("provider.said", 40),
    },
    "parity": {
        "fp32": Step("parity.fp32", 60),
        "fp16": Step("parity.fp16", 60),
        "imported": Step("parity.imported", 60),
    },
    "speed": {
        "ceilings": Step("roofline.ceilings", 40),
        "fp16": Step("speed.fp16", 40),
        "fp16-nhwc": Step("speed.fp16_nhwc", 40),
        "fp16-graph": Step("speed.fp16_graph", 40),
        "fp16-nhwc-graph": Step("speed.fp16_nhwc_graph", 40),
        "fp32": Step("speed.fp32", 40),
        "fp32-tf32": Step("speed.fp32_tf32", 40),
        "fp16-power-of-two": Step("speed.fp16_power_of_two", 40),
        "torch-eager": Step("peer.eager", 40),
        "torch-compiled": Step("peer.compiled", 150),
        "torch-graphs": Step("peer.graphs", 150),
        "upload": Step("speed.upload", 30),
        "fp16-exhaustive": Step("speed.fp16_exhaustive", 90),
        "fp16-nhwc-exhaustive": Step("speed.fp16_nhwc_exhaustive", 90),
        "verdict": Step("verdict.judge", 5, after=("speed/ceilings", "speed/fp16"), anew=True),
    },
    "service": {
        "bulk": Step("serving.bulk", 150),
        "single": Step("serving.single", 150),
        "latency": Step("serving.latency", 40),
        "first": Step("serving.first", 40),
        "memory": Step("serving.memory", 60),
    },
    "failure": {
        "device-error": Step("failure.device_error", 60),
        "out-of-memory": Step("failure.out_of_memory", 40),
    },
    "training": {
        "portable": Step("training.portable", 60),
        "fast": Step("training.fast", 120),
    },
}


def names(sections: list[str]) -> list[str]:
    """section/step for all steps of these sections, in order."""
    return [f"{section}/{step}" for section in SECTIONS if section in sections for step in SECTIONS[section]]


def step_named(name: str) -> Step:
    """The step of `section/step`."""
    section, _, step = name.partition("/")
    return SECTIONS[section][step]


def run(
    name: str, options: Options, rows: Mapping[str, object], environment: Mapping[str, str], limit_s: float
) -> Outcome:
    """Run one step in a process of its own; `rows` are those of the steps before it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.gpu.step", step_named(name).function, str(answer)],
            cwd=ROOT, env=dict(environment), text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            said, _ = process.communicate(json.dumps({"options": asdict(options), "rows": rows}), timeout=limit_s)
        except subprocess.TimeoutExpired:
            _kill(process.pid)
            said, _ = process.communicate()
            said += f"\nstopped after {limit_s:.0f} s"
        finally:
            _kill(process.pid)  # what it leaves running, or all of it after Ctrl-C, would be in the next one's way
        seconds = time.monotonic() - began
        if answer.is_file():
            return Outcome.of({**json.loads(answer.read_text(encoding="utf-8")), "seconds": seconds})
    last = [line.strip() for line in said.splitlines() if line.strip()][-FAILURE_LINES:]
    return Outcome("failed", note=" | ".join(last)[-600:] or f"exit status {process.returncode}", seconds=seconds)


def _kill(group: int) -> None:
    """End a step's processes: its servers and load generators too."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
