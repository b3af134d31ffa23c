"""Exported graphs → their stages, and the file that shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from service.metadata import Stages
from tests.conftest import write_colour_model
from training.stages import write_stages


def run_whole(folder: Path, stages: Stages, images: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
    """Everything the model gives with the stages' file appended."""
    model = (folder / "model.onnx").read_bytes() + (folder / stages.file.name).read_bytes()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"image": images}))


def test_convolutions_activations_and_poolings_are_stages_in_their_order(tmp_path: Path) -> None:
    stages = write_stages(write_colour_model(tmp_path / "colours" / "1") / "model.onnx")
    assert stages
    assert [(stage.name, stage.kind, stage.tensor) for stage in stages.shown] == [
        ("conv1", "convolution", "same"),
        ("relu1", "activation", "positive"),
        ("mean1", "pooling", "pooled"),
    ]


def test_after_the_model_the_file_adds_outputs_and_changes_none(tmp_path: Path) -> None:
    folder = write_colour_model(tmp_path / "colours" / "1")
    stages = write_stages(folder / "model.onnx")
    assert stages
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    alone = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"image": images})
    probabilities, *shown = run_whole(folder, stages, images)
    assert np.array_equal(probabilities, alone[0])
    for output in shown[:2]:
        assert np.array_equal(output, images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(shown[2][:, :, 0, 0], images.mean((1, 2)), rtol=1e-6)


def test_what_has_no_places_is_no_stage_and_without_stages_there_is_no_file(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), str(tmp_path / "model.onnx"))
    assert write_stages(tmp_path / "model.onnx") is None
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
