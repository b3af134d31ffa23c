"""A network from elsewhere in 8-bit integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.training.foreign.networks import SIZE, network
from tests.training.test_quantize import activation_scales
from training import golden
from training.calibrate import Calibrator
from training.errors import ExportError
from training.foreign.graph import read
from training.foreign.int8 import BATCH, quantized
from training.foreign.wrapping import Normalisation, with_way_in, with_way_out
from training.onnx_graph import run_onnx

PICTURES = golden.pictures(SIZE, SIZE, 24)


@pytest.mark.parametrize("opset", [11, 12, 17])
def test_it_says_nearly_what_the_network_says_and_computes_in_integers(tmp_path: Path, opset: int) -> None:
    foreign = read(network(tmp_path / "a.onnx", opset=opset))
    way_in = with_way_in(foreign, Normalisation((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
    integers = quantized(way_in, PICTURES)
    kinds = {node.op_type for node in integers.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    probabilities = []
    for name, model in (("fp32", way_in), ("int8", integers)):
        onnx.save_model(with_way_out(model, Calibrator(), {}, classes=3), str(tmp_path / f"{name}.onnx"))
        probabilities.append(run_onnx(tmp_path / f"{name}.onnx", PICTURES))
    fp32, int8 = probabilities
    assert 0 < np.abs(fp32 - int8).max() < 0.1


def test_an_activations_range_is_the_mean_of_its_batches(tmp_path: Path) -> None:
    way_in = with_way_in(read(network(tmp_path / "a.onnx")), Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    pale = PICTURES[:BATCH]
    bright, dark, both = (
        activation_scales(quantized(way_in, images)) for images in (pale, pale // 8, np.concatenate([pale, pale // 8]))
    )
    assert (bright > dark).all()
    assert both == pytest.approx((bright + dark) / 2, rel=1e-3)


def test_a_network_that_is_quantised_already_is_told(tmp_path: Path) -> None:
    """What onnxruntime makes of it then, it can't open itself."""
    integers = quantized(with_way_in(read(network(tmp_path / "a.onnx")), Normalisation()), PICTURES)
    with pytest.raises(ExportError, match="No int8 file can be made"):
        quantized(integers, PICTURES)


def test_a_graph_that_can_not_be_quantised_is_told() -> None:
    broken = helper.make_model(helper.make_graph([], "nothing", [], []))
    with pytest.raises(ExportError, match="No int8 file can be made"):
        quantized(broken, PICTURES)
