"""What keeps CUDA from working, and what its errors mean; the texts are ONNX Runtime 1.31's own."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace

import onnxruntime
import pytest

from service import cuda

ARENA = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
    "Name:'node_conv2d_1' Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) {}"
)
CALL = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Relu node. Name:'node_relu' Status "
    "Message: /onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, void, "
    "onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, const char*, "
    "const char*, int) [with ERRTYPE = cudaError; bool THRW = true] {} ; GPU=0 ; hostname=host ; file=/onnxruntime_src/"
    "onnxruntime/core/providers/cuda/cuda_allocator.cc ; line=89 ; expr=cudaMalloc((void**)&p, size); "
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ARENA.format("Failed to allocate memory for requested buffer of size 939524096"), True),
        (ARENA.format("Available memory of 1048576 is smaller than requested bytes of 4194304"), True),
        (CALL.format("CUDA failure 2: out of memory"), True),
        (CALL.format("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (CALL.format("CUDNN failure 4003: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (CALL.format("CUDA failure 700: an illegal memory access was encountered"), False),
        (CALL.format("CUDA failure 719: unspecified launch failure"), False),
        (CALL.format("CUDA failure 36: API call is not supported in the installed CUDA driver"), False),
        (CALL.format("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED"), False),
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: image", False),
    ],
)
def test_out_of_memory_is_told_from_a_broken_device(text: str, expected: bool) -> None:
    assert cuda.is_out_of_memory(RuntimeError(text)) is expected


class Driver:
    """libcuda.so.1 of a machine whose first call gives `status`."""

    def __init__(self, status: int) -> None:
        self._status = status

    def cuInit(self, _flags: int) -> int:
        return self._status


def libraries(driver: int | None, absent: tuple[str, ...] = ()) -> Callable[[str], object]:
    """`ctypes.CDLL` of a machine with this driver status (None: no driver) and without `absent`."""

    def load(name: str) -> object:
        if name == "libcuda.so.1" and driver is not None:
            return Driver(driver)
        if name == "libcuda.so.1" or name in absent:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return object()

    return load


@pytest.mark.parametrize(
    ("driver", "said", "absent", "expected"),
    [
        (None, "", (), "NVIDIA's driver is missing (libcuda.so.1)"),
        (100, "", (), "no GPU is visible"),
        (999, "", (), "the driver fails with CUDA error 999"),
        (0, "Failed to load libcurand.so.10: cannot open\nPlease …", (), "libraries are missing (libcurand.so.10)"),
        (0, "", (cuda.CUDNN,), f"libraries are missing ({cuda.CUDNN})"),
        (0, "", (), None),
    ],
)
def test_what_is_missing_is_named(
    driver: int | None,
    said: str,
    absent: tuple[str, ...],
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", libraries(driver, absent))
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print(said))  # noqa: T201 - as ONNX Runtime does
    assert cuda.missing() == expected
    assert not capsys.readouterr().out  # stdout is for the address alone


@pytest.mark.parametrize(("status", "count", "expected"), [(0, 4, 4), (0, 1, 1), (0, 0, 1), (999, 4, 1)])
def test_gpus_are_those_that_the_driver_counts(
    status: int, count: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count_devices(place: object) -> int:
        place._obj.value = count  # type: ignore[attr-defined]  # what `byref` refers to
        return status

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: SimpleNamespace(cuDeviceGetCount=count_devices))
    assert cuda.devices() == expected


def test_this_machine_knows_what_it_lacks() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert cuda.missing() == "NVIDIA's driver is missing (libcuda.so.1)"
    else:
        pytest.skip("there is a driver here")
