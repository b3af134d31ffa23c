"""The rearranged int8 graph: the same probabilities bit for bit, and nothing transposed when it runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from training import quantize as quantization
from training.architectures import ARCHITECTURES
from training.calibrate import Calibrator
from training.golden import pictures
from training.integer_layout import arrange
from training.onnx_graph import InferenceGraph, run_onnx, write_onnx

NETWORKS = ["plain-cnn-small", "excited-cnn-small", "tutorial-cnn"]


@pytest.fixture(scope="module", params=NETWORKS)
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int8 file as it comes from the quantiser."""
    folder, images = tmp_path_factory.mktemp("plain"), pictures(32, 32, count=32)
    torch.manual_seed(0)
    network = ARCHITECTURES[request.param](10)
    network.initialise([(torch.from_numpy(images).permute(0, 3, 1, 2).float() - network.mean) / network.std])
    write_onnx(InferenceGraph(network, Calibrator(0.05)), folder / "fp32.onnx", height=32, width=32, properties={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantization, "arrange", onnx.checker.check_model)
        quantization.quantize(folder / "fp32.onnx", folder / "int8.onnx", images)
    return folder / "int8.onnx"


def arranged(source: Path, target: Path) -> onnx.ModelProto:
    model = onnx.load(source)
    arrange(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(target))
    return model


def optimized(file: Path, tmp_path: Path) -> list[str]:
    """The operators that ONNX Runtime makes of it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]


@pytest.mark.parametrize("batch_size", [1, 7])
def test_it_computes_the_same_numbers(plain: Path, tmp_path: Path, batch_size: int) -> None:
    arranged(plain, tmp_path / "int8.onnx")
    images = pictures(32, 32, count=21)
    before, after = (run_onnx(file, images, batch_size) for file in (plain, tmp_path / "int8.onnx"))
    assert np.array_equal(before, after)
    assert len(np.unique(after)) > 100


def test_four_pixels_of_three_bytes_enter_the_first_convolution(plain: Path, tmp_path: Path) -> None:
    before, after = onnx.load(plain).graph, arranged(plain, tmp_path / "int8.onnx").graph
    (few, *_), (many, *_) = (
        [
            numpy_helper.to_array(t)
            for t in graph.initializer
            if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4
        ]
        for graph in (before, after)
    )
    assert (many.shape[0], many.shape[1]) == (4 * few.shape[0], 4 * few.shape[1])
    assert np.abs(many.astype(int)).sum() == 4 * np.abs(few.astype(int)).sum()


def test_nothing_is_transposed_when_it_runs(plain: Path, tmp_path: Path) -> None:
    before = optimized(plain, tmp_path)
    arranged(plain, tmp_path / "int8.onnx")
    after = optimized(tmp_path / "int8.onnx", tmp_path)
    tutorial = before.count("QLinearConv") < 4  # it flattens a larger image, whose order matters
    assert after.count("Transpose") == int(tutorial)
    assert "MaxPool" not in after


def one_convolution(columns: int, **attributes: list[int]) -> onnx.ModelProto:
    """uint8 (N, 8, columns, 3) → a convolution of two 3×3 filters → uint8.

    Weights of 7 bits, whose products CPUs without int8 dot products add without overflow: 2 × 255 × 64 < 2¹⁵.
    """
    weights = np.random.default_rng(0).integers(-64, 65, (2, 3, 3, 3)).astype(np.int8)
    constants: dict[str, npt.NDArray[np.generic]] = {
        "one": np.array(1, np.float32),
        "zero": np.array(0, np.uint8),
        "weights": weights,
        "scales": np.array([0.004, 0.002], np.float32),
        "zeros": np.zeros(2, np.int8),
        "sums": np.array([900, -300], np.int32),
        "no_sums": np.zeros(2, np.int32),
    }
    given = {"strides": [1, 1], "dilations": [1, 1], "pads": [0, 0, 0, 0], **attributes}
    conv = helper.make_node("Conv", ["x", "w", "b"], ["y"], kernel_shape=[3, 3])
    conv.attribute.extend(helper.make_attribute(name, values) for name, values in given.items())
    nodes = [
        helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("DequantizeLinear", ["first", "one", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["weights", "scales", "zeros"], ["w"], axis=0),
        helper.make_node("DequantizeLinear", ["sums", "scales", "no_sums"], ["b"], axis=0),
        conv,
        helper.make_node("QuantizeLinear", ["y", "one", "zero"], ["q"]),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", 8, columns, 3])],
        [helper.make_tensor_value_info("q", onnx.TensorProto.UINT8, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def answers(model: onnx.ModelProto, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"image": images})
    return np.asarray(result)


@pytest.mark.parametrize(
    ("columns", "attributes", "groups"),
    [
        (8, {}, True),
        (12, {}, True),
        (10, {}, False),
        (8, {"strides": [2, 2]}, False),
        (8, {"dilations": [2, 2]}, False),
        (8, {"pads": [1, 1, 1, 1]}, False),
    ],
)
def test_only_a_plain_convolution_of_whole_groups_is_rearranged(
    columns: int, attributes: dict[str, list[int]], groups: bool
) -> None:
    model = one_convolution(columns, **attributes)
    images = np.random.default_rng(1).integers(0, 256, (5, 8, columns, 3), np.uint8)
    before = answers(model, images)
    arrange(model)
    assert np.array_equal(answers(model, images), before)
    assert ("Slice" in {node.op_type for node in model.graph.node}) is groups
