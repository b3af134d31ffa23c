"""What a batch came to: images per label, and accuracy and confusion where the true labels are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

import orjson

from service.jobs.inputs import Input


@dataclass
class Tally:
    """Counts of one batch so far."""

    labels: tuple[str, ...]
    predicted: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    confusion: dict[str, Counter[str]] = field(default_factory=dict)  # truth → prediction → images

    @property
    def images(self) -> int:
        """Inputs, those that failed among them."""
        return self.predicted.total() + self.failed

    def add(self, predictions: Sequence[int | None], truths: Sequence[str | None]) -> None:
        """Count inputs: the index of each one's label, or None where it failed; its true label, where it is known."""
        for index, truth in zip(predictions, truths, strict=True):
            if index is None:
                self.failed += 1
                continue
            label = self.labels[index]
            self.predicted[label] += 1
            if truth in self.labels:
                self.confusion.setdefault(truth, Counter())[label] += 1

    def add_rows(self, rows: Iterable[bytes], inputs: Iterable[Input]) -> None:
        """Count rows of NDJSON; a label is known where its input still has the row's id: a folder may have changed."""
        indices = {label: index for index, label in enumerate(self.labels)}
        for line, each in zip(rows, chain(inputs, repeat(None)), strict=False):
            row = orjson.loads(line)
            label = row.get("label")
            truth = each.truth if each and each.id == row["id"] else None
            self.add([None if label is None else indices[label]], [truth])

    def text(self) -> str:
        """The summary that people read."""
        widths = max(map(len, ("failed", *self.labels))), max(7, len(f"{self.images:,}"))
        lines = [
            f"{name:{widths[0]}}  {count:{widths[1]},}  {count / max(self.images, 1):6.1%}"
            for name, count in [*((label, self.predicted[label]) for label in self.labels), ("failed", self.failed)]
            if count or name != "failed"
        ]
        return "\n".join([*lines, *self._judgement()])

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
        return {"predicted": dict(self.predicted), "failed": self.failed, "confusion": confusion}

    def restore(self, record: dict[str, Any]) -> None:
        """Go on from what `record` gave."""
        self.predicted, self.failed = Counter(record["predicted"]), record["failed"]
        self.confusion = {truth: Counter(row) for truth, row in record["confusion"].items()}
