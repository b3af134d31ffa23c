"""Accuracy on damaged images: of whom it is, and that nothing is left out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from service.metadata import Precision, Robustness
from training.corruptions import CORRUPTIONS
from training.data import Split
from training.robustness import Answer, measure_robustness


def measured() -> Robustness:
    """Of a model that tells red (0) from the rest (1), asked about 20 red and 20 blue images."""
    images = torch.zeros((40, 32, 32, 3), dtype=torch.uint8)
    images[:20, ..., 0], images[20:, ..., 2] = 200, 200

    def answer(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        red = (pixels[..., 0].mean((1, 2)) > pixels[..., 2].mean((1, 2)) + 20).astype(np.float32)
        return np.stack([red, 1 - red], 1)

    split = Split(images, torch.arange(40) // 20)
    answers: dict[Precision, Answer] = {"fp32": lambda pixels: 1 - answer(pixels), "int8": answer}
    wrong, right = measure_robustness(answers, split, split="validation", command="x")
    assert (wrong.precision, wrong.jpeg_75, wrong.grey) == ("fp32", 0, 0.5)
    return right


@pytest.fixture(scope="module")
def robustness() -> Robustness:
    return measured()


def test_every_corruption_is_measured_at_every_severity(robustness: Robustness) -> None:
    assert list(robustness.corruptions) == list(CORRUPTIONS)
    assert {len(accuracies) for accuracies in robustness.corruptions.values()} == {5}
    assert (robustness.images, robustness.split, robustness.precision) == (40, "validation", "int8")


def test_damage_that_hides_the_answer_shows(robustness: Robustness) -> None:
    assert robustness.grey == 0.5  # no red is left
    assert robustness.jpeg_75 == 1
    assert robustness.corruptions["pixelate"] == (1, 1, 1, 1, 1)
    assert robustness.corruptions["brightness"] == (1, 1, 1, 1, 1)


def test_the_mean_is_over_all_corruptions_and_severities(robustness: Robustness) -> None:
    few = robustness.model_copy(update={"corruptions": {"fog": (1.0, 0.5), "snow": (0.75, 0.25)}})
    assert few.mean_corruption_accuracy() == 0.625
    assert few.mean_corruption_accuracy(["snow", "jpeg"]) == 0.75


def test_it_comes_out_the_same_again(robustness: Robustness) -> None:
    assert measured() == robustness
