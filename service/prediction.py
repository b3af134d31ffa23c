"""What the core returns for one image."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which weights answered."""

    name: str
    version: str
    digest: str  # "sha256:…" of the ONNX file
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Calibrated probabilities float32 (classes,) in the order of the model's labels."""

    model: ModelIdentity
    probabilities: npt.NDArray[np.float32]
    index: int  # the most probable class

    @property
    def label(self) -> str:
        """The most probable class's name."""
        return self.model.labels[self.index]

    def top(self, k: int | None = None) -> dict[str, np.float32]:
        """All classes in the model's order, or the `k` most probable in falling order."""
        labels, p = self.model.labels, self.probabilities
        if k is None:
            return dict(zip(labels, p, strict=True))
        return {labels[i]: p[i] for i in np.argsort(-p, kind="stable")[:k]}


def predictions(model: ModelIdentity, probabilities: npt.NDArray[np.float32]) -> list[Prediction]:
    """What the rows of `probabilities` (N, classes) say, in their order."""
    return list(map(Prediction, repeat(model), probabilities, probabilities.argmax(1).tolist()))
