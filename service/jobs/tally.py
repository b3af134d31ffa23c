"""What a batch came to: images per label, and accuracy, confusion and coverage where the true labels are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, NamedTuple

import orjson

from service.jobs.inputs import Input


class Predicted(NamedTuple):
    """What one row says."""

    label: str
    prediction_set: tuple[str, ...] = ()  # nothing where none was asked for


@dataclass
class Tally:
    """Counts of one batch so far."""

    labels: tuple[str, ...]
    coverage: float | None = None  # of the prediction sets that were asked for
    predicted: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    confusion: dict[str, Counter[str]] = field(default_factory=dict)  # truth → prediction → images
    set_classes: int = 0  # in all prediction sets together
    covered: int = 0  # images whose set holds their true label

    @property
    def images(self) -> int:
        """Inputs, those that failed among them."""
        return self.predicted.total() + self.failed

    def add(self, predictions: Sequence[Predicted | None], truths: Sequence[str | None]) -> None:
        """Count inputs: what was predicted of each, or None where it failed; its true label, where it is known."""
        for prediction, truth in zip(predictions, truths, strict=True):
            if prediction is None:
                self.failed += 1
                continue
            self.predicted[prediction.label] += 1
            self.set_classes += len(prediction.prediction_set)
            if truth in self.labels:
                self.confusion.setdefault(truth, Counter())[prediction.label] += 1
                self.covered += truth in prediction.prediction_set

    def add_rows(self, rows: Iterable[bytes], inputs: Iterable[Input]) -> None:
        """Count rows of NDJSON; a label is known where its input still has the row's id: a folder may have changed."""
        for line, each in zip(rows, chain(inputs, repeat(None)), strict=False):
            row = orjson.loads(line)
            truth = each.truth if each and each.id == row["id"] else None
            predicted = None if "error" in row else Predicted(row["label"], tuple(row.get("prediction_set", ())))
            self.add([predicted], [truth])

    def text(self) -> str:
        """The summary that people read."""
        widths = max(map(len, ("failed", *self.labels))), max(7, len(f"{self.images:,}"))
        lines = [
            f"{name:{widths[0]}}  {count:{widths[1]},}  {count / max(self.images, 1):6.1%}"
            for name, count in [*((label, self.predicted[label]) for label in self.labels), ("failed", self.failed)]
            if count or name != "failed"
        ]
        return "\n".join([*lines, *self._sets(), *self._judgement()])

    def _sets(self) -> list[str]:
        scored, known = self.predicted.total(), sum(row.total() for row in self.confusion.values())
        if self.coverage is None or not scored:
            return []
        size = f"{self.set_classes / scored:.3f} classes on average"
        held = f", the known label in {self.covered / known:.2%}" if known else ""
        return ["", f"prediction sets for {self.coverage:.0%}: {size}{held}"]

    def _judgement(self) -> list[str]:
        known = sum(row.total() for row in self.confusion.values())
        if not known:
            return []
        right = sum(row[truth] for truth, row in self.confusion.items())
        width = max(map(len, self.labels))
        cells = max(6, width)
        return [
            "",
            f"accuracy {right / known:.2%} ({right:,} of {known:,} with a known label)",
            "",
            " ".join([f"{'truth':{width}}", *(f"{label:>{cells}}" for label in self.labels)]),
            *(
                " ".join([f"{truth:{width}}", *(f"{self.confusion[truth][label]:{cells},}" for label in self.labels)])
                for truth in self.labels
                if truth in self.confusion
            ),
        ]

    def record(self) -> dict[str, object]:
        """As JSON keeps it."""
        confusion = {truth: dict(row) for truth, row in self.confusion.items()}
        counts = {"failed": self.failed, "set_classes": self.set_classes, "covered": self.covered}
        return {"predicted": dict(self.predicted), **counts, "confusion": confusion}

    def restore(self, record: dict[str, Any]) -> None:
        """Go on from what `record` gave."""
        self.predicted, self.failed = Counter(record["predicted"]), record["failed"]
        self.set_classes, self.covered = record.get("set_classes", 0), record.get("covered", 0)  # earlier ones had none
        self.confusion = {truth: Counter(row) for truth, row in record["confusion"].items()}
