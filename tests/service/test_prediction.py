"""What the core returns for one image."""

from __future__ import annotations

import numpy as np
import pytest

from service.prediction import ModelIdentity, predictions

MODEL = ModelIdentity("m", "1", "sha256:0", ("a", "b", "c"))
PREDICTION, EVEN = predictions(MODEL, np.array([[0.2, 0.5, 0.3], [1 / 3, 1 / 3, 1 / 3]], np.float32))


def test_label_is_the_most_probable_class() -> None:
    assert (PREDICTION.index, PREDICTION.label) == (1, "b")


def test_all_classes_come_in_the_models_order() -> None:
    assert list(PREDICTION.top()) == ["a", "b", "c"]


@pytest.mark.parametrize(("k", "labels"), [(1, ["b"]), (2, ["b", "c"]), (3, ["b", "c", "a"])])
def test_top_k_comes_in_falling_order(k: int, labels: list[str]) -> None:
    assert list(PREDICTION.top(k)) == labels


def test_ties_keep_the_models_order() -> None:
    assert list(EVEN.top(2)) == ["a", "b"]
    assert EVEN.label == "a"


@pytest.mark.parametrize(
    ("threshold", "labels"),
    [(0.6, ["b"]), (0.5, ["b"]), (np.float32(0.3), ["b", "c"]), (0.1, ["b", "c", "a"]), (0.0, ["b", "c", "a"])],
)
def test_a_set_holds_what_reaches_the_threshold_and_always_the_most_probable(
    threshold: float, labels: list[str]
) -> None:
    assert PREDICTION.set_from(threshold) == labels
