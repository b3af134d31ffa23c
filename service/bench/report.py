"""An outcome → a line while it runs, a table and a plot at its end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

import numpy as np

from service.bench.load import Outcome

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
BAR = "█"
WIDTH, BINS = 50, 16


def progress(outcome: Outcome, stream: TextIO = sys.stderr) -> None:
    """One line that renews itself in a terminal; nothing elsewhere."""
    if stream.isatty():
        failed = outcome.answered - outcome.statuses[200]
        stream.write(
            f"\r{outcome.seconds:5.1f} s  {outcome.answered:,} requests  "
            f"{outcome.images_per_second:,.0f} images/s  {failed:,} not answered with 200 "
        )
        stream.flush()


def table(outcome: Outcome) -> str:
    """Rates, statuses and latencies as lines of text."""
    rows = [
        ("requests", f"{outcome.answered:,} in {outcome.seconds:.1f} s"),
        ("answered with 200", f"{outcome.statuses[200]:,}"),
        *(
            ("no answer" if status == 0 else f"status {status}", f"{count:,}")
            for status, count in sorted(outcome.statuses.items())
            if status != 200 and count
        ),
        *([("never sent: no connection was free", f"{outcome.late:,}")] if outcome.late else []),
        ("requests per second", f"{outcome.statuses[200] / outcome.seconds:,.1f}"),
        ("images per second", f"{outcome.images_per_second:,.1f}"),
        *(
            (f"latency {'max' if percentile == 100 else f'p{percentile:g}'}", f"{value * 1000:.2f} ms")
            for percentile, value in percentiles(outcome.latencies_s, PERCENTILES)
        ),
        *(("refusal p99", f"{value * 1000:.2f} ms") for _, value in percentiles(outcome.refusals_s, (99.0,))),
        ("processor time of this tool", f"{outcome.client_cpu_s / outcome.seconds:.0%} of a core"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def percentiles(seconds: Sequence[float], wanted: Sequence[float]) -> list[tuple[float, float]]:
    """(percentile, seconds) for each percentile that is wanted; nothing of nothing."""
    return list(zip(wanted, np.percentile(np.asarray(seconds), wanted).tolist(), strict=True)) if seconds else []


def plot(outcome: Outcome, encoding: str = "utf-8") -> str:
    """How the latencies spread, on a logarithmic axis: a bar per bin, of what `encoding` has."""
    if not outcome.latencies_s:
        return ""
    values = np.asarray(outcome.latencies_s) * 1000
    edges = np.geomspace(max(values.min(), 1e-3), max(values.max(), values.min() * 1.01, 1.1e-3), BINS + 1)
    counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
    bar = BAR if BAR.encode(encoding, "ignore") else "#"
    return "\n".join(
        f"{low:9.2f} ms  {bar * round(WIDTH * count / counts.max())} {count:,}"
        for low, count in zip(edges, counts.tolist(), strict=False)
    )
