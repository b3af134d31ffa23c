"""The session: on the provider that was asked for, warmed, and honest about failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from service import engine as engine_module
from service.cores import usable_cores
from service.engine import PROVIDERS, Engine
from service.errors import InferenceFailed, StartupError
from tests.conftest import SIZE, colour_probabilities


def open_engine(file: Path, **changes: str | int) -> Engine:
    options: dict[str, Any] = {
        "device": "cpu", "classes": 3, "height": SIZE, "width": SIZE, "max_batch_size": 8, "threads": 1
    }  # fmt: skip
    return Engine(file, **{**options, **changes})


@pytest.fixture
def model_file(models_dir: Path) -> Path:
    return models_dir / "colours" / "1" / "model.onnx"


@pytest.mark.parametrize("count", [1, 3, 8])
def test_probabilities_come_back_in_order(model_file: Path, count: int) -> None:
    rows = np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    assert np.abs(open_engine(model_file).infer(rows) - colour_probabilities(rows)).max() < 1e-6


def test_cuda_is_refused_where_it_cannot_be_had(model_file: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(StartupError, match="--device cuda can't be had"):
        open_engine(model_file, device="cuda")


def test_cuda_is_refused_when_the_session_lands_on_the_cpu(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = onnxruntime.InferenceSession(str(model_file), providers=["CPUExecutionProvider"])
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(engine_module, "_session", lambda *_: on_cpu)
    with pytest.raises(StartupError, match="took CPUExecutionProvider in its place"):
        open_engine(model_file, device="cuda")


def test_auto_says_aloud_that_it_passed_over_cuda(model_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    assert open_engine(model_file, device="auto").provider == "CPUExecutionProvider"
    assert "not on CUDAExecutionProvider" in caplog.text


def test_padding_providers_see_only_their_batch_sizes(model_file: Path) -> None:
    engine = open_engine(model_file)
    engine._provider, engine._batch_sizes = PROVIDERS["cuda"], PROVIDERS["cuda"].batch_sizes(8)
    seen: list[int] = []
    run = engine._session.run

    class Session:
        def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            seen.append(len(inputs["image"]))
            results: list[np.ndarray] = run(outputs, inputs)
            return results

    engine._session = Session()
    rows = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    assert np.abs(engine.infer(rows) - colour_probabilities(rows)).max() < 1e-6
    engine.warm_up()
    assert seen == [8, 1, 8]


@pytest.mark.parametrize(
    ("device", "largest", "sizes"),
    [
        ("cpu", 1, (1,)),
        ("cpu", 6, (1, 2, 4, 6)),
        ("cpu", 8, (1, 2, 4, 8)),
        ("cuda", 1, (1,)),
        ("cuda", 100, (1, 8, 32, 100)),
        ("cuda", 1024, (1, 8, 32, 128, 512, 1024)),
    ],
)
def test_batch_sizes_that_are_warmed(device: str, largest: int, sizes: tuple[int, ...]) -> None:
    assert PROVIDERS[device].batch_sizes(largest) == sizes


def test_a_file_that_is_no_model_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(StartupError, match=r"can't open model\.onnx"):
        open_engine(tmp_path / "model.onnx")


@pytest.mark.parametrize(("change", "what"), [({"classes": 4}, "output"), ({"height": 9}, "input")])
def test_a_graph_that_is_not_what_the_metadata_says_is_refused(
    model_file: Path, change: dict[str, int], what: str
) -> None:
    with pytest.raises(StartupError, match=f"The model's {what}"):
        open_engine(model_file, **change)


def test_a_runtime_error_becomes_inference_failed(model_file: Path) -> None:
    with pytest.raises(InferenceFailed):
        open_engine(model_file).infer(np.zeros((1, 2, 2, 3), np.uint8))


def test_nan_is_no_probability(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["means"], keepdims=0),
        helper.make_node("Div", ["means", "means"], ["probabilities"]),  # 0 / 0 for black
    ]
    graph = helper.make_graph(
        nodes,
        "nan",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])],
        [onnx.numpy_helper.from_array(np.array([1, 2], np.int64), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(model, str(tmp_path / "model.onnx"))
    with pytest.raises(InferenceFailed):
        open_engine(tmp_path / "model.onnx").infer(np.zeros((1, SIZE, SIZE, 3), np.uint8))


def test_usable_cores_are_at_least_one() -> None:
    assert usable_cores() >= 1
