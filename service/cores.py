"""How much machine there is: cores this process may use, and workers that make good use of them."""

from __future__ import annotations

import math
import os
from pathlib import Path

NVIDIA_DEVICE = Path("/dev/nvidiactl")
CPU_INFO = Path("/proc/cpuinfo")
INT8_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "asimddp"}  # x86's VNNI and Arm's counterpart, as Linux names them


def default_workers(device: str) -> int:
    """One worker per core on the CPU; one in all where a GPU does the work: it runs one batch at a time."""
    return 1 if may_use_gpu(device) else usable_cores()


def may_use_gpu(device: str) -> bool:
    """Whether `device` means a GPU here, as far as can be told without opening it."""
    return device == "cuda" or (device == "auto" and NVIDIA_DEVICE.exists())


def threads_per_worker(workers: int) -> int:
    """Threads that an inference may use, so that all workers together use every core and none of them twice."""
    return max(1, usable_cores() // workers)


def usable_cores() -> int:
    """Cores this process may use: the scheduler's affinity, cut by a cgroup v2 quota; ONNX Runtime sees neither."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return affinity if quota == "max" else max(1, min(affinity, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return affinity


def has_int8_dot_product() -> bool:
    """Whether int8 networks are faster than float32 ones here: without these instructions they gain nothing."""
    try:
        return bool(INT8_DOT_PRODUCTS & set(CPU_INFO.read_text().split()))
    except OSError:
        return False
