"""The GPU image, where there may be no GPU: it says so, and serves all the same unless it was told to use one."""

from __future__ import annotations

import subprocess

from service.command import EXAMPLE
from tests.container.containers import CONFINED, docker, running

LIBRARIES = """
import ctypes, os, pathlib, onnxruntime
onnxruntime.preload_dlls(directory="")
loaded = {line.split("/")[-1].strip() for line in open("/proc/self/maps") if ".so" in line}
print(*sorted(name for name in loaded if name.startswith(("libcu", "libnv"))))
try:
    ctypes.CDLL(pathlib.Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so")
except OSError as exc:
    print(exc)
"""


def test_without_a_gpu_it_serves_on_the_cpu_and_says_so(gpu_image: str) -> None:
    with running(gpu_image) as container:
        container.wait_until_healthy()
        assert container.request("/readyz")["provider"] == "CPUExecutionProvider"
        assert container.request("/v1/predict", EXAMPLE.read_bytes())["predictions"][0]["label"] == "ship"
        assert "NVIDIA's driver is missing" in container.log


def test_told_to_use_a_gpu_it_ends_with_the_reason(gpu_image: str) -> None:
    command = ["docker", "run", "--rm", *CONFINED, "--env", "CONVOY_DEVICE=cuda", gpu_image]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "NVIDIA's driver is missing (libcuda.so.1); install what is missing, or use --device auto." in done.stderr


def test_all_that_the_provider_links_to_is_there_but_for_the_driver(gpu_image: str) -> None:
    told = docker("run", "--rm", *CONFINED, "--entrypoint", "python", gpu_image, "-c", LIBRARIES)
    assert {"libcudart.so.13", "libcublasLt.so.13", "libcudnn.so.9"} <= set(told.splitlines()[0].split())
    assert told.splitlines()[-1].startswith("libcuda.so.1: cannot open shared object file")
