"""How much machine there is: cores this process may use, and workers that make good use of them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

NVIDIA_DEVICE = Path("/dev/nvidiactl")
CPU_INFO = Path("/proc/cpuinfo")
GPUS = "from service import cuda; print(0 if cuda.missing() else cuda.devices())"
GPUS_S = 60.0  # a driver's first answer takes its time where there are many of them
INT8_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "asimddp"}  # x86's VNNI and Arm's counterpart, as Linux names them


def default_workers(device: str) -> int:
    """One worker for each GPU, which runs one batch at a time, where `device` means those; else one per core."""
    if not may_use_gpu(device):
        return usable_cores()
    return gpus() or (1 if device == "cuda" else usable_cores())  # one is enough to say why there can be none


def gpus() -> int:
    """How many GPUs CUDA shows here; 0 where none can be used.

    Another process is asked: this one may be the parent of all workers, and must not depend on a driver.
    """
    try:
        asked = subprocess.run([sys.executable, "-c", GPUS], capture_output=True, text=True, timeout=GPUS_S, check=True)
        return int(asked.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0


def may_use_gpu(device: str) -> bool:
    """Whether `device` means a GPU here, as far as can be told without opening it."""
    return device == "cuda" or (device == "auto" and NVIDIA_DEVICE.exists())


def threads_per_worker(workers: int) -> int:
    """Threads that an inference may use, so that all workers together use every core and none of them twice."""
    return max(1, usable_cores() // workers)


def usable_cores() -> int:
    """Cores this process may use: the kernel's affinity, cut by a cgroup v2 quota; ONNX Runtime sees neither."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return affinity if quota == "max" else max(1, min(affinity, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return affinity


def has_int8_dot_product() -> bool:
    """Whether int8 networks are far faster than float32 ones here: without these instructions they gain little."""
    try:
        return bool(INT8_DOT_PRODUCTS & set(CPU_INFO.read_text().split()))
    except OSError:
        return False
