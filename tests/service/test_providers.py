"""Sessions on the provider that was asked for, with the file that suits it, or a sentence that says why not."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from service import cuda, providers
from service.errors import StartupError
from service.metadata import Precision
from service.providers import PROVIDERS, Opened, open_session


@pytest.fixture
def model_file(models_dir: Path) -> Path:
    return models_dir / "colours" / "1" / "model.onnx"


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of ONNX Runtime that has CUDA, on a machine that lacks nothing."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setitem(PROVIDERS, "cuda", replace(PROVIDERS["cuda"], missing=lambda: None, devices=lambda: 1))


def opened(file: Path, device: str, precision: Precision | None = None) -> Opened:
    return open_session({"fp32": file}, device, precision, 1)


def test_cuda_is_refused_where_it_cannot_be_had(model_file: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(StartupError, match="--device cuda can't be had"):
        opened(model_file, "cuda")


@pytest.mark.usefixtures("with_cuda")
def test_cuda_is_refused_when_the_session_lands_on_the_cpu(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = onnxruntime.InferenceSession(str(model_file), providers=["CPUExecutionProvider"])
    monkeypatch.setattr(providers, "_session", lambda *_: on_cpu)
    with pytest.raises(StartupError, match="took CPUExecutionProvider in its place"):
        opened(model_file, "cuda")


def test_auto_says_once_that_there_is_no_cuda_to_be_had(
    model_file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    providers._say_absent.cache_clear()
    caplog.set_level(logging.INFO)
    for number in (1, 0, 0):
        assert open_session({"fp32": model_file}, "auto", None, 1, number).device == "cpu"
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [("INFO", "this build of ONNX Runtime has no CUDA: serving on the CPU")]


@pytest.mark.usefixtures("with_cuda")
@pytest.mark.parametrize("reason", ["no GPU is visible", "libraries are missing (libcudnn.so.9)"])
def test_what_cuda_lacks_is_the_reason_that_is_given(
    reason: str, model_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(PROVIDERS, "cuda", replace(PROVIDERS["cuda"], missing=lambda: reason))
    with pytest.raises(StartupError) as raised:
        opened(model_file, "cuda")
    assert f"--device cuda can't be had: CUDAExecutionProvider: {reason}; " in str(raised.value)
    assert opened(model_file, "auto").device == "cpu"
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [("WARNING", f"CUDAExecutionProvider can't be used: {reason}; trying the next")]


@pytest.mark.usefixtures("with_cuda")
def test_no_node_of_a_cuda_session_may_land_on_the_cpu(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def session(file: str, options: onnxruntime.SessionOptions, **given: Any) -> None:  # noqa: ANN401
        asked.update(given, fallback=options.get_session_config_entry("session.disable_cpu_ep_fallback"), file=file)
        raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(StartupError, match="it does not take the whole model; the log says why"):
        opened(model_file, "cuda")
    assert (asked["fallback"], asked["enable_fallback"]) == ("1", False)
    assert asked["providers"] == [("CUDAExecutionProvider", cuda.OPTIONS)]


@pytest.mark.usefixtures("with_cuda")
@pytest.mark.parametrize(("number", "device_id"), [(0, None), (1, "1"), (3, None), (5, "2")])
def test_processes_take_the_gpus_in_turn(
    number: int, device_id: str | None, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROVIDERS, "cuda", replace(PROVIDERS["cuda"], devices=lambda: 3))
    asked: list[dict[str, str]] = []

    class Session:
        def __init__(self, _file: str, _options: object, *, providers: list[Any], enable_fallback: bool) -> None:
            assert not enable_fallback
            asked.append(providers[0][1])

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    opened = open_session({"fp32": model_file}, "cuda", None, 1, number)
    assert opened.gpu == int(device_id or 0)
    assert asked == [{**cuda.OPTIONS, **({"device_id": device_id} if device_id else {})}]


def test_on_the_cpu_they_all_run_on_the_same(model_file: Path) -> None:
    assert open_session({"fp32": model_file}, "cpu", None, 1, 5).gpu == 0


def test_a_provider_that_takes_only_part_of_a_model_is_refused(model_file: Path) -> None:
    """The rule that holds for CUDA, seen at work: ONNX Runtime itself refuses nodes on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with pytest.raises(Exception, match="fallback to CPU EP has been explicitly disabled"):
        onnxruntime.InferenceSession(str(model_file), options, providers=[], enable_fallback=False)


@pytest.mark.parametrize(
    ("here", "files", "precision", "expected"),
    [
        (True, ("fp32", "int8"), None, "int8"),
        (False, ("fp32", "int8"), None, "fp32"),
        (True, ("fp32", "fp16"), None, "fp32"),
        (True, ("fp32", "int8"), "fp32", "fp32"),
        (False, ("fp32", "int8"), "int8", "int8"),
    ],
)
def test_the_file_is_the_one_that_is_fastest_here(
    model_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    here: bool,
    files: tuple[Precision, ...],
    precision: Precision | None,
    expected: Precision,
) -> None:
    monkeypatch.setattr(providers, "has_int8_dot_product", lambda: here)
    assert open_session(dict.fromkeys(files, model_file), "cpu", precision, 1).precision == expected


@pytest.mark.parametrize(
    ("precision", "here", "exact"), [("int8", False, True), ("int8", True, False), ("fp32", False, True)]
)
def test_integers_are_asked_to_be_exact_only_where_they_would_not_be(
    model_file: Path, precision: Precision, here: bool, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    original = onnxruntime.InferenceSession

    def session(file: str, options: onnxruntime.SessionOptions, **given: Any) -> onnxruntime.InferenceSession:  # noqa: ANN401
        try:
            asked.append(options.get_session_config_entry("session.x64quantprecision") == "1")
        except RuntimeError:  # that it has not been set
            asked.append(False)
        return original(file, options, **given)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(providers, "has_int8_dot_product", lambda: here)
    open_session({precision: model_file}, "cpu", precision, 1)
    assert asked == [exact]


def test_a_precision_that_the_model_lacks_is_a_sentence(model_file: Path) -> None:
    with pytest.raises(StartupError, match="--precision int8 can't be had: the model has fp32"):
        opened(model_file, "cpu", "int8")


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
        opened(tmp_path / "model.onnx", "cpu")
