"""Logits → the temperature that makes their softmax honest, and the measures of how honest it is; prediction sets."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 15
COVERAGES = (0.9, 0.95, 0.99)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T that minimises the negative log-likelihood of softmax(logits / T): (N, classes), (N,) → T > 0.

    C. Guo et al., "On Calibration of Modern Neural Networks" (2017). Fitted in log T, in which the loss is smooth.
    """
    logits = logits.double()
    log_t = torch.zeros((), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits / log_t.exp(), labels)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return float(log_t.detach().exp())


def conformal_threshold(probabilities: Tensor, labels: Tensor, coverage: float) -> float:
    """The probability from which on a class belongs to the set that holds the true one with probability `coverage`.

    Split-conformal with one minus the true class's probability as the score (V. Vovk et al., 2005; M. Sadinle et al.,
    "Least Ambiguous Set-Valued Classifiers", 2019): (N, classes), (N,) held out → 0 … 1. The promise is for new images
    like these, on average over them.
    """
    scores = (1 - probabilities.double().gather(1, labels.unsqueeze(1)).squeeze(1)).sort().values
    place = math.ceil((len(scores) + 1) * coverage)
    return 1 - float(scores[place - 1]) if place <= len(scores) else 0.0


def conformal_thresholds(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """The threshold for each of `COVERAGES`, from images that were held out: (N, classes), (N,)."""
    return {str(coverage): conformal_threshold(probabilities, labels, coverage) for coverage in COVERAGES}


def cross_fitted_sets(probabilities: Tensor, labels: Tensor, coverage: float) -> Tensor:
    """As `prediction_sets`, each half of the images by the threshold of the other: bool (N, classes).

    On the images that a threshold was fitted on, it keeps its promise whatever it is worth.
    """
    sets = torch.empty_like(probabilities, dtype=torch.bool)
    for mine, other in ((0, 1), (1, 0)):
        threshold = conformal_threshold(probabilities[other::2], labels[other::2], coverage)
        sets[mine::2] = prediction_sets(probabilities[mine::2], threshold)
    return sets


def prediction_sets(probabilities: Tensor, threshold: float) -> Tensor:
    """Which classes are in each image's set: bool (N, classes); the most probable one always is."""
    return (probabilities >= threshold) | (probabilities == probabilities.amax(1, keepdim=True))


def with_temperature(probabilities: Tensor, temperature: float) -> Tensor:
    """What softmax(logits × temperature) would be, given softmax(logits): (N, classes) → (N, classes)."""
    return F.softmax(probabilities.double().clamp_min(1e-38).log() * temperature, 1)


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """ECE with equal-width bins over the top probability (M. P. Naeini et al., 2015): (N, classes), (N,) → 0 … 1."""
    _, top, correct = reliability(probabilities, labels, bins).unbind(1)
    return float((correct - top).abs().sum() / len(labels))


def reliability(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> Tensor:
    """Sums per equal-width bin of the top probability: images, top probabilities, right answers: (bins, 3)."""
    top, predicted = probabilities.double().max(1)
    correct = (predicted == labels).double()
    bin_of = (top * bins).ceil().long().clamp(1, bins) - 1  # (low, high], as is usual
    sums = torch.zeros((bins, 3), dtype=torch.double)
    return sums.index_add_(0, bin_of, torch.stack([torch.ones_like(top), top, correct], 1))


def negative_log_likelihood(probabilities: Tensor, labels: Tensor) -> float:
    """Mean of -log p(true class), in nats."""
    return float(-probabilities.double().gather(1, labels.unsqueeze(1)).clamp_min(1e-38).log().mean())


def brier_score(probabilities: Tensor, labels: Tensor) -> float:
    """Mean squared distance to the one-hot truth, summed over classes: 0 … 2 (G. W. Brier, 1950)."""
    truth = F.one_hot(labels, probabilities.shape[1]).double()
    return float((probabilities.double() - truth).square().sum(1).mean())
