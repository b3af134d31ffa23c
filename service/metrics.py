"""What /metrics shows: every family by name, and how its numbers become Prometheus' text format.

The numbers live in `counters`, under the very names that are printed, so that a scrape has only sums to print. A count
costs a tenth of a microsecond: each request makes a dozen.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from service.counters import Cell, Counters
from service.errors import ServiceError
from service.observer import BatchReport
from service.prediction import Prediction

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = tuple(base * 10.0**power for power in range(-5, 2) for base in (1, 2.5, 5))  # 10 µs … 50 s
PROBABILITIES = tuple(step / 20 for step in range(4, 21))  # 0.2 … 1
BATCH_SIZES = tuple(float(1 << power) for power in range(11))  # 1 … 1024

MOST_LABELS, OTHER = 1000, "…"  # of more classes none is counted by itself: Prometheus would suffer from it
LABEL_BYTES = 64  # of a label; escaped it may take twice as many
NOTHING: Mapping[tuple[str, ...], float] = MappingProxyType({})

ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
VALUE, ESCAPED = re.compile(r'="((?:[^"\\]|\\.)*)"'), re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric and its labels. An `info` is 1 wherever it holds, however many processes say so."""

    kind: Literal["counter", "gauge", "histogram", "info"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # upper bounds of a histogram, the last one is +Inf


METRICS: dict[str, Family] = {
    "convoy_requests_total": Family("counter", "Requests answered.", ("route", "method", "status")),
    "convoy_images_total": Family(
        "counter", "Images by what became of them: `predicted` or an error.", ("model", "version", "outcome")
    ),
    "convoy_request_seconds": Family("histogram", "From a request's head to its answer.", ("route",), SECONDS),
    "convoy_stage_seconds": Family("histogram", "Where the time of requests goes.", ("stage",), SECONDS),
    "convoy_batch_size": Family("histogram", "Images per inference.", ("model",), BATCH_SIZES),
    "convoy_batch_closed_total": Family("counter", "Why batches closed: idle, full, delay, drain.", ("reason",)),
    "convoy_queue_images": Family("gauge", "Images that wait for the engine.", ("model",)),
    "convoy_predictions_total": Family("counter", "Most probable labels.", ("model", "label")),
    "convoy_prediction_probability": Family(
        "histogram",
        "Probability of the most probable label; a drift of the input shows here.",
        ("model",),
        PROBABILITIES,
    ),
    "convoy_model_info": Family(
        "info", "1 for each loaded model.", ("model", "version", "digest", "provider", "precision")
    ),
    "convoy_batches": Family("gauge", "Batches that are kept.", ("status",)),
}


class Histogram:
    """The cells of one histogram: its buckets and the sum."""

    def __init__(self, bounds: Sequence[float], buckets: Sequence[Cell], total: Cell) -> None:
        self._bounds, self._buckets, self._total = bounds, [bucket.index for bucket in buckets], total.index
        self._numbers = total.numbers

    def observe(self, value: float, times: int = 1) -> None:
        """Count one value, or the same value several times."""
        self._numbers[self._buckets[bisect_left(self._bounds, value)]] += times
        self._numbers[self._total] += value * times


class ModelMetrics:
    """What is counted about one loaded model; an `Observer` of its batcher too."""

    def __init__(self, metrics: Metrics, name: str, version: str, labels: Sequence[str]) -> None:
        self._metrics, self._name, self._version = metrics, name, version
        self._predicted = metrics.cell("convoy_images_total", name, version, "predicted")
        shown = [_shown(label) for label in labels] if len(labels) <= MOST_LABELS else [OTHER] * len(labels)
        self._labels = [metrics.cell("convoy_predictions_total", name, label) for label in shown]
        self._probability = metrics.histogram("convoy_prediction_probability", name)
        self._queue, self._queued = metrics.cell("convoy_queue_images", name), 0  # shared by the model's versions
        self._batch_size = metrics.histogram("convoy_batch_size", name)
        self._wait = metrics.histogram("convoy_stage_seconds", "queue")
        self._infer = metrics.histogram("convoy_stage_seconds", "infer")

    def classified(self, outcomes: Iterable[Prediction | ServiceError]) -> None:
        """Images of one request were answered so."""
        for outcome in outcomes:
            if isinstance(outcome, ServiceError):
                self.failed(outcome.slug)
            else:
                self._predicted.add()
                self._labels[outcome.index].add()
                self._probability.observe(float(outcome.probabilities[outcome.index]))

    def failed(self, outcome: str, images: int = 1) -> None:
        """Images were not answered; `outcome` is the error's slug."""
        self._metrics.cell("convoy_images_total", self._name, self._version, outcome).add(images)

    def queued(self, rows: int) -> None:
        """So many images wait now."""
        self._queue.add(rows - self._queued)
        self._queued = rows

    def ran(self, batch: BatchReport) -> None:
        """A batch has run; each of its requests waited for it and took part in all of it."""
        self._metrics.cell("convoy_batch_closed_total", batch.reason).add()
        self._batch_size.observe(batch.rows)
        self._infer.observe(batch.ran_s, len(batch.waited_s))
        for seconds in batch.waited_s:
            self._wait.observe(seconds)


class Metrics:
    """Hands out the numbers to count on, and prints all of them."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        counters.forget(tuple(f"{name}{{" for name, family in METRICS.items() if family.kind in ("gauge", "info")))
        self._cells: dict[tuple[str, ...], Cell] = {}
        self._histograms: dict[tuple[str, ...], Histogram] = {}

    def cell(self, name: str, *values: str) -> Cell:
        """The number of a counter, gauge or info for these label values."""
        if (cell := self._cells.get((name, *values))) is None:
            cell = self._cells[name, *values] = self._counters.cell(_sample(name, name, values))
        return cell

    def histogram(self, name: str, *values: str) -> Histogram:
        """The histogram for these label values."""
        if (histogram := self._histograms.get((name, *values))) is None:
            bounds = METRICS[name].buckets
            histogram = self._histograms[name, *values] = Histogram(
                bounds,
                [
                    self._counters.cell(_sample(name, f"{name}_bucket", values, ("le", bound)))
                    for bound in (*map(_number, bounds), "+Inf")
                ],
                self._counters.cell(_sample(name, f"{name}_sum", values)),
            )
        return histogram

    def total(self, name: str, *values: str) -> float:
        """The sum of a counter's numbers whose first labels have these values, exact over all worker processes."""
        return sum(number for found, number in self.totals(name).items() if found[: len(values)] == values)

    def totals(self, name: str) -> dict[tuple[str, ...], float]:
        """All of a counter's sums by the values of its labels, in one look at what all worker processes count."""
        return {_values(key): number for key, number in self._counters.totals(f"{name}{{").items()}

    def render(self, looked_up: Mapping[tuple[str, ...], float] = NOTHING) -> bytes:
        """Prometheus' text format, exact over all worker processes.

        `looked_up` are numbers that all processes have in one place, and none counts: name and label values → value.
        This is work for a thread: all workers' counts have to be looked through.
        """
        totals = self._counters.totals()
        totals |= {_sample(name, name, values): value for (name, *values), value in looked_up.items()}
        samples = defaultdict[str, dict[str, float]](dict)  # by their names, so that none is looked at for all others
        for key, value in totals.items():
            samples[key.partition("{")[0]][key] = value
        return "".join(
            line + "\n" for name, family in METRICS.items() for line in _lines(name, family, samples)
        ).encode()


def _shown(label: str) -> str:
    """A class's name, cut where it is too long for a count's name."""
    cut = label.encode()[:LABEL_BYTES].decode(errors="ignore")
    return label if cut == label else cut + "…"


def _lines(name: str, family: Family, samples: defaultdict[str, dict[str, float]]) -> Iterator[str]:
    yield f"# HELP {name} {family.help}"
    yield f"# TYPE {name} {'gauge' if family.kind == 'info' else family.kind}"
    if family.kind == "histogram":
        for key, total in samples[f"{name}_sum"].items():
            yield from _histogram_lines(name, key.removeprefix(f"{name}_sum"), total, samples[f"{name}_bucket"])
        return
    for key, value in samples[name].items():
        if value or family.kind != "info":
            yield f"{key} {1 if family.kind == 'info' else _number(value)}"


def _histogram_lines(name: str, labels: str, total: float, buckets: Mapping[str, float]) -> Iterator[str]:
    """Counted one by one, printed cumulated."""
    count, own = 0.0, f"{name}_bucket{labels.removesuffix('}')},le="
    for key, value in buckets.items():
        if key.startswith(own):
            count += value
            yield f"{key} {_number(count)}"
    yield f"{name}_sum{labels} {_number(total)}"
    yield f"{name}_count{labels} {_number(count)}"


def _sample(family: str, name: str, values: Sequence[str], *more: tuple[str, str]) -> str:
    """`name{label="value",…}`."""
    return f"{name}{{{_pairs([*zip(METRICS[family].labels, values, strict=True), *more])}}}"


def _pairs(labels: Iterable[tuple[str, str]]) -> str:
    """`label="value",…`, escaped as the format asks."""
    return ",".join(f'{label}="{value.translate(ESCAPES)}"' for label, value in labels)


def _values(key: str) -> tuple[str, ...]:
    """What `_sample` was given."""
    return tuple(
        ESCAPED.sub(lambda found: "\n" if found[1] == "n" else found[1], value) for value in VALUE.findall(key)
    )


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
