"""Networks from elsewhere → networks of pixels and probabilities, which are what they were."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.training.foreign.networks import LOUDNESS, SIZE, by_hand, network, softmax
from training import golden
from training.calibrate import Calibrator
from training.errors import ExportError
from training.foreign.graph import read
from training.foreign.wrapping import Normalisation, from_probabilities, with_way_in, with_way_out
from training.onnx_graph import run_onnx, run_onnx_with_logits

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PICTURES = golden.pictures(SIZE, SIZE, 9)


def logits_of(pictures: np.ndarray, normalisation: Normalisation) -> torch.Tensor:
    return LOUDNESS * torch.from_numpy(normalisation(pictures)).mean((1, 2))


@pytest.mark.parametrize("shape", [("N", 3, SIZE, SIZE), ("N", SIZE, SIZE, 3), (1, 3, SIZE, SIZE)])
@pytest.mark.parametrize("end", [[], softmax(), softmax("LogSoftmax")], ids=["logits", "softmax", "log"])
@pytest.mark.parametrize("normalisation", [Normalisation(), IMAGENET], ids=["0 to 1", "as for ImageNet"])
@pytest.mark.parametrize("calibrator", [Calibrator(), Calibrator(2.5, (0.1, 0.0, -0.2), 1.3)], ids=["own", "fitted"])
def test_probabilities_are_those_of_the_network_calibrated(
    tmp_path: Path,
    shape: tuple[int | str, ...],
    end: list[onnx.NodeProto],
    normalisation: Normalisation,
    calibrator: Calibrator,
) -> None:
    foreign = read(network(tmp_path / "a.onnx", shape=shape, end=end))
    assert (foreign.height, foreign.width) == (SIZE, SIZE)
    expected = logits_of(PICTURES, normalisation)
    assert np.allclose(foreign.run(normalisation(PICTURES)), expected, atol=1e-5)
    model = with_way_out(with_way_in(foreign, normalisation), calibrator, {"name": "x"}, classes=3)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(tmp_path / "b.onnx"))
    for batch_size in (1, 2, 9):
        assert np.allclose(run_onnx(tmp_path / "b.onnx", PICTURES, batch_size), calibrator(expected), atol=1e-5)
    _, scaled = run_onnx_with_logits(tmp_path / "b.onnx", PICTURES)
    assert np.allclose(scaled, calibrator.scaled(expected), atol=1e-4)
    assert {entry.key: entry.value for entry in model.metadata_props} == {"name": "x"}


def test_probabilities_of_whatever_kind_become_logits(tmp_path: Path) -> None:
    foreign = read(network(tmp_path / "a.onnx", end=by_hand()))
    given = foreign.run(IMAGENET(PICTURES))
    assert np.allclose(given.sum(1), 1, atol=1e-5)
    assert np.allclose(from_probabilities(foreign).run(IMAGENET(PICTURES)), np.log(given), atol=1e-5)


@pytest.mark.parametrize("std", [0.0, -0.2, 58.4, 1e-9, math.inf, math.nan])
def test_deviations_of_nothing_or_of_other_pixels_are_told(std: float) -> None:
    with pytest.raises(ExportError, match=r"deviations above 0 and up to 1\. Divide values for 0…255 by 255"):
        Normalisation(std=(0.2, std, 0.2))


@pytest.mark.parametrize("mean", [123.7, -1.5, math.inf, math.nan])
def test_means_of_other_pixels_are_told(mean: float) -> None:
    with pytest.raises(ExportError, match=r"means from -1 to 1, .* Divide values for 0…255 by 255"):
        Normalisation(mean=(0.5, 0.5, mean))
