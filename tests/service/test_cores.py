"""Cores, workers and threads: never more of them than there is machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service import cores, cuda


def test_usable_cores_are_those_of_the_affinity() -> None:
    assert 1 <= cores.usable_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("x", 8)]
)
def test_a_cgroup_quota_counts(quota: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(Path, "read_text", lambda _: quota)
    assert cores.usable_cores() == expected


@pytest.mark.parametrize(("gpus", "expected"), [(1, [6, 1, 1]), (4, [6, 4, 4]), (0, [6, 1, 6])])
def test_a_worker_per_core_or_one_per_gpu(gpus: int, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 6)
    monkeypatch.setattr(cores, "gpus", lambda: gpus)
    monkeypatch.setattr(Path, "exists", lambda _: True)
    assert [cores.default_workers(device) for device in ("cpu", "cuda", "auto")] == expected
    assert [cores.may_use_gpu(device) for device in ("cpu", "cuda", "auto")] == [False, True, True]
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert cores.default_workers("auto") == 6


def test_gpus_are_counted_by_another_process() -> None:
    here = 0 if cuda.missing() else cuda.devices()
    assert cores.gpus() == here


@pytest.mark.parametrize(
    ("script", "expected"),
    [("print(3)", 3), ("print('a driver that talks')", 0), ("raise SystemExit(1)", 0), ("import os; os.abort()", 0)],
)
def test_what_says_no_number_has_no_gpus(script: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "GPUS", script)
    assert cores.gpus() == expected


def test_a_driver_that_does_not_answer_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "GPUS", "import time; time.sleep(600)")
    monkeypatch.setattr(cores, "GPUS_S", 0.2)
    assert cores.gpus() == 0


@pytest.mark.parametrize(("workers", "expected"), [(1, 6), (2, 3), (4, 1), (6, 1), (12, 1)])
def test_threads_are_shared_out_among_the_workers(workers: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 6)
    assert cores.threads_per_worker(workers) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("flags : fma avx512_vnni", True), ("Features : fp asimddp", True), ("avx2 avx", False)],
)
def test_int8_instructions_are_known_by_their_flags(
    flags: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "CPU_INFO", tmp_path / "cpuinfo")
    assert not cores.has_int8_dot_product()
    (tmp_path / "cpuinfo").write_text(flags)
    assert cores.has_int8_dot_product() is expected
