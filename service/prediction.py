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

    def summary(self, top_k: int | None = None, threshold: float | None = None) -> dict[str, object]:
        """What every answer says of an image: label, its probability, and those of all classes or of the `top_k`.

        With a `threshold` also the prediction set.
        """
        said: dict[str, object] = {
            "label": self.label,
            "probability": self.probabilities[self.index],
            "probabilities": self.top(top_k),
        }
        return said if threshold is None else {**said, "prediction_set": self.set_from(threshold)}

    def set_from(self, threshold: float) -> list[str]:
        """The classes with a probability of `threshold` or more, in falling order; the most probable one always is.

        With a split-conformal threshold this is a prediction set: it holds the true class as often as was asked for, on
        average over images like those of calibration (M. Sadinle et al., "Least Ambiguous Set-Valued Classifiers With
        Bounded Error Levels", 2019).
        """
        return list(self.top(max(1, int(np.count_nonzero(self.probabilities >= threshold)))))


def predictions(model: ModelIdentity, probabilities: npt.NDArray[np.float32]) -> list[Prediction]:
    """What the rows of `probabilities` (N, classes) say, in their order."""
    return list(map(Prediction, repeat(model), probabilities, probabilities.argmax(1).tolist()))
