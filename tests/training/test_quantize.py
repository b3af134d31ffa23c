"""The int8 file: integer from the image's bytes to the logits, close to fp32, and only its scales carry temperature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch

from training.architectures import ARCHITECTURES
from training.errors import ExportError
from training.golden import pictures
from training.onnx_graph import InferenceGraph, run_onnx, write_onnx
from training.quantize import divide_logits, quantize

IMAGES = pictures(32, 32, count=96)


@pytest.fixture(scope="module", params=["plain-cnn-small", "tutorial-cnn"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network with random weights, whose activations are alive, as an fp32 and an int8 file."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    network = ARCHITECTURES[request.param](10)
    network.initialise((torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() - network.mean) / network.std)
    write_onnx(InferenceGraph(network, 0.05), folder / "fp32.onnx", height=32, width=32, properties={"name": "x"})
    quantize(folder / "fp32.onnx", folder / "int8.onnx", IMAGES[:64])
    return folder / "fp32.onnx", folder / "int8.onnx"


def logits(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    values = np.log(probabilities.astype(np.float64))
    centred: npt.NDArray[np.float64] = values - values.mean(1, keepdims=True)
    return centred


def test_it_answers_almost_as_the_fp32_file_does(files: tuple[Path, Path]) -> None:
    expected, got = (logits(run_onnx(file, IMAGES)) for file in files)
    assert np.abs(got - expected).mean() < 0.05 * expected.std()
    assert not np.array_equal(got, expected)


def test_everything_but_the_softmax_is_integer(files: tuple[Path, Path], tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(files[1]), options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert kinds <= {"QLinearConv", "NhwcMaxPool", "QLinearAdd", "QGemm", "Transpose", "Reshape", "Softmax"}


def test_weights_have_eight_bits_and_a_scale_per_channel(files: tuple[Path, Path]) -> None:
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(files[1]).graph.initializer}
    weights = [name for name, values in tensors.items() if values.dtype == np.int8 and values.ndim == 4]
    assert weights
    for name in weights:
        assert np.abs(tensors[name]).max((1, 2, 3)).min() == 127
        assert len(tensors[name.replace("_quantized", "_scale")]) == len(tensors[name])


def test_dividing_the_logits_changes_nothing_else(files: tuple[Path, Path], tmp_path: Path) -> None:
    divided = tmp_path / "divided.onnx"
    divided.write_bytes(files[1].read_bytes())
    divide_logits(divided, 1.6, {"temperature": "1.6"})
    assert np.allclose(logits(run_onnx(divided, IMAGES)), logits(run_onnx(files[1], IMAGES)) / 1.6, atol=1e-4)
    assert [(p.key, p.value) for p in onnx.load(divided).metadata_props] == [("temperature", "1.6")]


def test_images_that_do_not_reach_from_0_to_255_do_not_calibrate(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="not taken as they are"):
        quantize(files[0], tmp_path / "int8.onnx", IMAGES[:16] // 2)
