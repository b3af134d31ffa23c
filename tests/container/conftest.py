"""The image, built once from this tree by whatever Docker there is; without one these tests are skipped, and say so.

Build steps and containers use the machine's own network: that works where Docker has no bridge, too. PYTHON_IMAGE names
another base image than the Dockerfile's, where that one can't be had.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.containers import Container, free_port, running

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def image() -> str:
    """The CPU image's name."""
    return built("cpu")


@pytest.fixture(scope="session")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def container(image: str, grpc_port: int) -> Iterator[Container]:
    """One that is healthy, speaks gRPC too, and that no test stops."""
    with running(image, "--env", f"CONVOY_GRPC_PORT={grpc_port}") as container:
        container.wait_until_healthy()
        yield container


@pytest.fixture(scope="session")
def gpu_image() -> str:
    """The GPU image's name."""
    if "CONVOY_TEST_GPU_IMAGE" not in os.environ:
        pytest.skip("it takes gigabytes of downloads; set CONVOY_TEST_GPU_IMAGE=1 to build it")
    return built("gpu")


def built(target: str) -> str:
    """The image of that target, made from this tree."""
    if not shutil.which("docker"):
        pytest.skip("there is no docker command")
    if subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker daemon answers; start one, or name it with DOCKER_HOST")
    name = f"convoy:{target}"  # compose's name for it too
    command = ["docker", "build", "--network", "host", "--target", target, "--tag", name]
    if base := os.environ.get("PYTHON_IMAGE"):
        command += ["--build-arg", f"PYTHON={base}"]
    done = subprocess.run([*command, ROOT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return name
