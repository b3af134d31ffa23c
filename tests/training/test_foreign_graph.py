"""Networks from elsewhere → networks of pixels and probabilities, which are what they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from tests.training.foreign import LOUDNESS, SIZE, by_hand, frozen, network, softmax
from training import golden
from training.calibrate import Calibrator
from training.errors import ExportError
from training.foreign_graph import Normalisation, count_macs, from_probabilities, parameters, read, wrapped
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
    model = wrapped(foreign, normalisation, calibrator, {"name": "x"}, classes=3)
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


def test_its_size_can_be_said_where_the_file_leaves_it_open(tmp_path: Path) -> None:
    path = network(tmp_path / "a.onnx", shape=("N", 3, "h", "w"))
    with pytest.raises(ExportError, match=r"any size, float \(N, 3, h, w\); say with --size"):
        read(path)
    assert (read(path, 24).height, read(path, 24).width) == (24, 24)
    with pytest.raises(ExportError, match="not of 24 × 24; leave out --size"):
        read(network(tmp_path / "b.onnx"), 24)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"shape": ("N", 1, SIZE, SIZE)}, r"inputs input float \(N, 1, 16, 16\); one is needed, float32"),
        ({"shape": ("N", 3, SIZE)}, "one is needed"),
        ({"kind": TensorProto.DOUBLE}, r"input double \("),
        ({"inputs": 2}, r"input float \(N, 3, 16, 16\), more 1 float"),
        ({"opset": 10}, "has opset 10; export the network again with 11 or newer"),
    ],
)
def test_what_can_not_be_served_is_told(tmp_path: Path, options: dict[str, object], told: str) -> None:
    with pytest.raises(ExportError, match=told):
        read(network(tmp_path / "a.onnx", **options))  # type: ignore[arg-type]


def test_deviations_of_nothing_are_told() -> None:
    with pytest.raises(ExportError, match="above 0"):
        Normalisation(std=(0.2, 0.0, 0.2))


def test_what_is_no_network_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="There is no file"):
        read(tmp_path / "none.onnx")
    (tmp_path / "a.onnx").write_bytes(b"hello")
    with pytest.raises(ExportError, match="no valid ONNX file"):
        read(tmp_path / "a.onnx")
    rows = [helper.make_node("Reshape", ["logits", "one row"], ["a"]), helper.make_node("Identity", ["a"], ["output"])]
    twice = [helper.make_node("Unsqueeze", ["logits", "one row"], ["output"])]
    assert read(network(tmp_path / "b.onnx", end=rows)).run(Normalisation()(PICTURES)).shape == (9, 3)
    with pytest.raises(ExportError, match=r"has the shape|can't run"):
        read(network(tmp_path / "c.onnx", end=twice)).run(Normalisation()(PICTURES))


def test_arithmetic_and_parameters_are_counted(tmp_path: Path) -> None:
    for shape in (("N", 3, SIZE, SIZE), (1, 3, SIZE, SIZE)):
        foreign = read(network(tmp_path / "a.onnx", shape=shape, end=frozen() if shape[0] == 1 else []))
        assert count_macs(foreign) == 3 * 3 * SIZE * SIZE + 3 * 3
        assert parameters(foreign) == 9 + 9
