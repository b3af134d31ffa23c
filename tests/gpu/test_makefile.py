"""`make gpu-check` brings the build of ONNX Runtime that has CUDA where there is a GPU, and the other one elsewhere."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.gpu.steps import ROOT


def commands(tmp_path: Path, *options: str, gpu: bool) -> list[str]:
    """What `make gpu-check` would run on a machine where `nvidia-smi` finds a GPU, or finds none."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nexit {int(not gpu)}\n")
    tool.chmod(0o755)
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}  # of the `make` that runs the tests: an inner one would say so
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    made = subprocess.run(
        ["make", "--dry-run", "--always-make", "gpu-check", *options],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return made.stdout.splitlines()


@pytest.mark.parametrize("gpu", [True, False])
def test_an_environment_of_its_own_where_there_is_a_gpu(tmp_path: Path, gpu: bool) -> None:
    python = ".venv/gpu/bin/python" if gpu else ".venv/test/bin/python"
    ran = commands(tmp_path, "OPTIONS=--small", gpu=gpu)
    assert ran[-1] == f"{python} -m tests.gpu --small"
    assert any(line.startswith(f"{python} -m pip install") for line in ran)


def test_wheels_are_installed_by_the_script_itself(tmp_path: Path) -> None:
    assert commands(tmp_path, "WHEELS=w", "PYTHON=python3", gpu=True) == ["python3 -m tests.gpu --wheels w "]


def test_its_list_is_that_of_the_tests_but_for_onnx_runtimes_build(tmp_path: Path) -> None:
    lines = [line for line in commands(tmp_path, gpu=True) if line.startswith("sed ")]
    listed = tmp_path / "requirements.txt"
    script = "\n".join(line.replace(".venv/gpu/requirements.txt", str(listed)) for line in lines)
    subprocess.run(["sh", "-ec", script], cwd=ROOT, check=True)
    got, tests, gpu = (
        _packages(path) for path in (listed, ROOT / "requirements-test.txt", ROOT / "requirements-gpu.txt")
    )
    assert got.keys() ^ tests.keys() == {"onnxruntime", "onnxruntime-gpu"}
    assert got["onnxruntime-gpu"] == gpu["onnxruntime-gpu"]
    assert {name: tests.get(name) for name in got if name != "onnxruntime-gpu"}.items() <= got.items()


def _packages(path: Path) -> dict[str, str]:
    """Name → everything that the list says of it, hashes included."""
    entries = path.read_text().replace("\\\n", " ").splitlines()
    return {entry.partition("==")[0]: " ".join(entry.split()) for entry in entries if entry.strip()}
