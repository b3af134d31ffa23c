"""SIGUSR2 breaks the device of the process that this is on the path of: for `tests.gpu.failure` alone.

On a GPU a kernel writes to address 8, after which every call of CUDA in the process fails with error 700. Elsewhere the
session raises what it would say then.
"""

from __future__ import annotations

import ctypes
import signal
from typing import Any

PTX = b"""
.version 6.4
.target sm_75
.address_size 64
.visible .entry fault() {
  .reg .b64 %a;
  .reg .b32 %v;
  mov.u64 %a, 8;
  mov.u32 %v, 1;
  st.global.u32 [%a], %v;
  ret;
}
\0"""
WORDS = "CUDA failure 700: an illegal memory access was encountered ; GPU=0"


def break_device(*_signal: object) -> None:
    """Break it for good."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        on_gpu = driver.cuInit(0) == 0
    except OSError:
        on_gpu = False
    if on_gpu:
        _fault(driver)
    else:
        _pretend()


def _fault(driver: ctypes.CDLL) -> None:
    context, module, kernel = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)  # the one that ONNX Runtime uses
    driver.cuCtxSetCurrent(context)
    assert driver.cuModuleLoadData(ctypes.byref(module), PTX) == 0
    assert driver.cuModuleGetFunction(ctypes.byref(kernel), module, b"fault") == 0
    one = ctypes.c_uint(1)
    driver.cuLaunchKernel(kernel, one, one, one, one, one, one, ctypes.c_uint(0), None, None, None)
    driver.cuCtxSynchronize()  # gives 700


def _pretend() -> None:
    import onnxruntime

    def run(*_: Any, **__: Any) -> None:  # noqa: ANN401 - the signature is ONNX Runtime's
        raise RuntimeError(WORDS)

    onnxruntime.InferenceSession.run = run


signal.signal(signal.SIGUSR2, break_device)
