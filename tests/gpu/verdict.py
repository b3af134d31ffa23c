"""Measured speeds → whether the service's choice of CUDA's options is the right one, and how far the ceiling is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from tests.gpu.report import Row, at_least
from tests.gpu.steps import SECTIONS
from tests.gpu.subject import Context

OURS = "speed/fp16"
CHANGES: Mapping[str, str] = {  # what each other step has changed
    "speed/fp16-nhwc": "prefer_nhwc=1",
    "speed/fp16-graph": "enable_cuda_graph=1",
    "speed/fp16-nhwc-graph": "prefer_nhwc=1, enable_cuda_graph=1",
    "speed/fp16-exhaustive": "cudnn_conv_algo_search=EXHAUSTIVE",
    "speed/fp16-nhwc-exhaustive": "prefer_nhwc=1, cudnn_conv_algo_search=EXHAUSTIVE",
    "speed/fp16-power-of-two": "arena_extend_strategy=kNextPowerOfTwo",
}
COMPILED = ("speed/torch-compiled", "speed/torch-graphs")
WORTHWHILE = 1.03  # times the speed: less is not worth another option
SHARE = 50.0  # per cent of the roofline
ROOFLINE_SIZE = "1024"


def judge(context: Context) -> Iterator[Row]:
    """From the rows of the other steps."""
    ours = speeds(context.rows.get(OURS, []))
    compiled = {step: speeds(context.rows.get(step, [])) for step in COMPILED}
    unknown = [step for step, each in compiled.items() if not each]
    note = f"nothing is known from {', '.join(unknown)}" if unknown else ""
    for size, speed in ours.items():
        if theirs := max((each[size] for each in compiled.values() if size in each), default=0.0):
            yield at_least(1.0, f"{size}: speed over that of PyTorch compiled", speed / theirs, "×", note=note)
    if not any(compiled.values()):
        yield Row("speed over that of PyTorch compiled", "", note="skipped: PyTorch was not measured")
    yield from _share(context, ours)
    yield from _changes(context, ours)


def speeds(rows: list[Row]) -> dict[str, float]:
    """Batch size → images per second on the device, of one step's rows."""
    return {row.name: row.value for row in rows if row.name.isdigit() and isinstance(row.value, float)}


def _share(context: Context, ours: dict[str, float]) -> Iterator[Row]:
    found = {row.name: row.value for row in context.rows.get("speed/ceilings", [])}
    if ROOFLINE_SIZE not in ours:
        return
    compute_s = float(found[f"operations of {ROOFLINE_SIZE}"]) / float(found["matrix product"]) / 1e3
    memory_s = float(found[f"bytes of {ROOFLINE_SIZE}"]) / float(found["copy"]) / 1e3
    floor_s = max(compute_s, memory_s)
    bound = "arithmetic" if compute_s > memory_s else "memory"
    note = f"{bound}: {compute_s * 1e6:,.0f} µs of arithmetic, {memory_s * 1e6:,.0f} µs of memory"
    yield Row(f"{ROOFLINE_SIZE}: the roofline", int(ROOFLINE_SIZE) / floor_s, "images/s", note=note)
    measured_s = int(ROOFLINE_SIZE) / ours[ROOFLINE_SIZE]
    yield at_least(SHARE, f"{ROOFLINE_SIZE}: of the roofline", 100 * floor_s / measured_s, "%")


def _changes(context: Context, ours: dict[str, float]) -> Iterator[Row]:
    """What would be faster, the best first."""
    better: list[tuple[float, str, str]] = []
    for step, change in CHANGES.items():
        theirs = speeds(context.rows.get(step, []))
        gains = {size: theirs[size] / speed for size, speed in ours.items() if size in theirs}
        if gains and (mean := float(np.exp(np.mean(np.log(list(gains.values())))))) > WORTHWHILE:
            each = ", ".join(f"{size}: {gain - 1:+.0%}" for size, gain in gains.items())
            better.append((mean, change, each))
    measured = [step for step in CHANGES if context.rows.get(step)]
    if not better:
        yield Row("would change", "nothing", note=f"of {len(measured)} other choices measured none gains 3 %")
    for mean, change, each in sorted(better, reverse=True):
        yield Row("would change", change, note=f"{mean - 1:+.0%} on average ({each})")


assert set(CHANGES) <= {f"speed/{step}" for step in SECTIONS["speed"]}
