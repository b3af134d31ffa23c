"""The int8 file: integer from the image's bytes to the logits, close to fp32, and calibrated without another node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch

from training.architectures import ARCHITECTURES
from training.calibrate import Calibrator
from training.golden import pictures
from training.onnx_graph import InferenceGraph, run_onnx, run_onnx_with_logits, write_onnx
from training.quantize import BATCH, quantize, recalibrate

IMAGES = pictures(32, 32, count=96)
CALIBRATOR = Calibrator(0.05, tuple(0.1 * i for i in range(10)), 1.2)


@pytest.fixture(scope="module", params=["plain-cnn-small", "excited-cnn-small", "speed-cnn", "tutorial-cnn"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network with random weights, whose activations are alive, as an fp32 and an int8 file."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    network = ARCHITECTURES[request.param](10)
    network.initialise([(torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() - network.mean) / network.std])
    write_onnx(InferenceGraph(network, CALIBRATOR), folder / "fp32.onnx", height=32, width=32, properties={"name": "x"})
    quantize(folder / "fp32.onnx", folder / "int8.onnx", IMAGES[:64])
    return folder / "fp32.onnx", folder / "int8.onnx"


def test_it_answers_almost_as_the_fp32_file_does(files: tuple[Path, Path]) -> None:
    expected, got = (run_onnx_with_logits(file, IMAGES)[1] for file in files)
    assert np.abs(got - expected).mean() < 0.05 * expected.std()
    assert not np.array_equal(got, expected)


def test_everything_but_the_softmax_and_smooth_activations_is_integer(files: tuple[Path, Path], tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(files[1]), options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    integer = {"QLinearConv", "NhwcMaxPool", "MaxPool", "QLinearAdd", "QGemm", "Transpose", "Reshape", "Slice"}
    excitation = {"QLinearAveragePool", "Unsqueeze", "QLinearMul"} | {"Sigmoid", "QuantizeLinear"}  # of N × C numbers
    smooth = {"Gelu", "QuantizeLinear", "DequantizeLinear"} if "Gelu" in kinds else set()
    assert kinds <= integer | excitation | smooth | {"LogSoftmax", "Abs", "Pow", "Neg", "Softmax"}
    assert "QuantizeLinear" not in kinds or kinds & {"Sigmoid", "Gelu"}


def test_weights_have_eight_bits_and_a_scale_per_channel(files: tuple[Path, Path]) -> None:
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(files[1]).graph.initializer}
    weights = [name for name, values in tensors.items() if values.dtype == np.int8 and values.ndim == 4]
    assert weights
    for name in weights:
        assert np.abs(tensors[name]).max((1, 2, 3)).min() == 127
        assert len(tensors[name.replace("_quantized", "_scale")]) == len(tensors[name])


def test_another_calibrator_takes_the_place_of_the_first(files: tuple[Path, Path], tmp_path: Path) -> None:
    changed, further = tmp_path / "changed.onnx", Calibrator(1.6, tuple(0.3 - 0.05 * i for i in range(10)), 1.5)
    changed.write_bytes(files[1].read_bytes())
    recalibrate(changed, further, {"exponent": "1.5"})
    _, first = run_onnx_with_logits(files[1], IMAGES)
    got, logits = run_onnx_with_logits(changed, IMAGES)
    assert np.abs(further(torch.from_numpy(first)).numpy() - got).max() < 1e-3
    assert (
        np.abs(
            CALIBRATOR.then(further).unscaled(torch.from_numpy(logits)).numpy()
            - CALIBRATOR.unscaled(torch.from_numpy(first)).numpy()
        ).max()
        < 1e-3
    )
    assert np.array_equal(got, run_onnx(changed, IMAGES))
    assert [(p.key, p.value) for p in onnx.load(changed).metadata_props] == [("exponent", "1.5")]


def test_what_needed_no_calibrator_may_need_one_in_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, int8, further = ARCHITECTURES["tutorial-cnn"](10), tmp_path / "int8.onnx", Calibrator(exponent=1.5)
    write_onnx(InferenceGraph(network, Calibrator()), tmp_path / "fp32.onnx", height=32, width=32, properties={})
    quantize(tmp_path / "fp32.onnx", int8, IMAGES)
    _, logits = run_onnx_with_logits(int8, IMAGES)
    recalibrate(int8, further, {})
    assert np.abs(further(torch.from_numpy(logits)).numpy() - run_onnx(int8, IMAGES)).max() < 1e-5


def test_bytes_are_taken_as_they_are_whatever_images_calibrate(files: tuple[Path, Path], tmp_path: Path) -> None:
    quantize(files[0], tmp_path / "int8.onnx", IMAGES[:16] // 2)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    node = next(node for node in graph.node if "image" in node.input)
    while node.op_type in {"Reshape", "Transpose"}:
        node = next(following for following in graph.node if node.output[0] in following.input)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    assert node.op_type == "DequantizeLinear"
    assert [tensors[name].item() for name in node.input[1:]] == [1, 0]


def test_an_activations_range_is_the_mean_of_its_batches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ARCHITECTURES["tutorial-cnn"](10)
    write_onnx(InferenceGraph(network, Calibrator()), tmp_path / "fp32.onnx", height=32, width=32, properties={})
    pale = np.repeat(IMAGES, 2, 0)[:BATCH]
    scales = []
    for images in (pale, pale // 8, np.concatenate([pale, pale // 8])):
        quantize(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", images)
        scales.append(activation_scales(onnx.load(tmp_path / "int8.onnx")))
    bright, dark, both = scales
    assert (bright > dark).all()
    assert both == pytest.approx((bright + dark) / 2, rel=1e-3)


def activation_scales(model: onnx.ModelProto) -> npt.NDArray[np.float64]:
    graph = model.graph
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    return np.array([tensors[node.input[1]].item() for node in graph.node if node.op_type == "QuantizeLinear"])
