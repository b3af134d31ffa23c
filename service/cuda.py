"""What CUDA needs beyond a session: its libraries, its options, and what it means by its errors.

ONNX Runtime's package for GPUs names CUDA's libraries but not where they are. Those that came as Python packages lie in
folders that the dynamic linker does not search, so they are loaded from there before the first session.
"""

from __future__ import annotations

import ctypes
import io
import re
from collections.abc import Mapping
from contextlib import redirect_stdout

import onnxruntime

NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE of <cuda.h>
CUDNN = "libcudnn.so.9"  # loaded only when a convolution runs: without it a session opens, and fails at its first batch
BATCH_SIZES = (1, 8, 32, 128, 512, 1024)  # cuDNN plans for each new shape, so there are few
OPTIONS: Mapping[str, str] = {  # `make gpu-check` measures the others and says what it would change
    "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE tries all for each new shape, DEFAULT is many times slower
    "use_tf32": "0",  # fp32 is exact: TF32 has fp16's 10 bits of fraction, and who wants speed has fp16
    "arena_extend_strategy": "kSameAsRequested",  # the shapes are few and fixed: no need to double what is held
    "prefer_nhwc": "0",  # suits tensor cores, but transposes around what has no such form: off until measured
    "enable_cuda_graph": "0",  # saves launches of small batches, and holds memory for each size: off until measured
}
# Not set: gpu_mem_limit, which counts the arena alone; fixed shapes hold what they need after warm-up and no more.

OUT_OF_MEMORY = re.compile(
    r"Failed to allocate memory for requested buffer"  # ONNX Runtime's arena
    r"|Available memory of \d+ is smaller than requested bytes"  # the same at its limit
    r"|(CUDA|CUBLAS|CUDNN) failure \d+: \S*(out of memory|ALLOC(ATION)?_FAILED)"
)


def missing() -> str | None:
    """Load CUDA's libraries; what is missing here, for the operator to read, or None."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "NVIDIA's driver is missing (libcuda.so.1)"
    if status := driver.cuInit(0):
        return "no GPU is visible" if status == NO_DEVICE else f"the driver fails with CUDA error {status}"
    with redirect_stdout(io.StringIO()) as said:
        onnxruntime.preload_dlls()
    absent = re.findall(r"^Failed to load (\S+):", said.getvalue(), re.MULTILINE)
    try:
        ctypes.CDLL(CUDNN)
    except OSError:
        absent.append(CUDNN)
    return f"libraries are missing ({', '.join(absent)})" if absent else None


def devices() -> int:
    """How many GPUs CUDA shows this process: where nothing is `missing`, one at least."""
    count = ctypes.c_int()
    status = ctypes.CDLL("libcuda.so.1").cuDeviceGetCount(ctypes.byref(count))
    return 1 if status else max(1, count.value)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch, or the same one later, may well succeed."""
    return isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)) is not None
