"""Training on the GPU is skipped for what it lacks itself."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu import training
from tests.gpu.report import Row
from tests.gpu.steps import Options, Skip
from tests.gpu.subject import Context


@pytest.mark.parametrize(("there", "reason"), [(False, "torch has no CUDA"), (True, "--data FOLDER")])
def test_torch_is_asked_for_the_gpu_and_not_onnx_runtime(
    there: bool, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    with pytest.raises(Skip, match=reason):
        next(training.fast(Context(Options(work=str(tmp_path)))))


def test_a_failed_training_says_why() -> None:
    with pytest.raises(ChildProcessError, match=r"status 1: the GPU is full$"):
        training.said_by([sys.executable, "-c", "import sys; sys.exit('the GPU is full')"])


def test_steps_are_timed_until_the_device_has_taken_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, done_s = 0, 0.0

    class Loss:
        def __float__(self) -> float:
            nonlocal asked, done_s
            asked, done_s = 0, done_s + asked
            return 0.0

    def ask(*_: object) -> Loss:
        nonlocal asked
        asked += 1  # and a second of work for a device that nobody waits for yet
        return Loss()

    monkeypatch.setattr("training.loop.train_one_step", ask)
    monkeypatch.setattr("time.perf_counter", lambda: done_s)
    rows = training.portable(Context(Options(work=str(tmp_path), small=True)))
    (speed,) = itertools.islice((row for row in rows if row.name == "images"), 1)
    assert speed.value == training.FEW_IMAGES


@pytest.mark.parametrize(("before", "goes_on"), [({}, False), ({"training/fast": [Row("time", 1.0)]}, False),
                                                 ({"training/fast": []}, True)])  # fmt: skip
def test_only_trainings_that_broke_off_are_gone_on_with(
    before: dict[str, list[Row]], goes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(command: list[str]) -> str:
        assert (Path(command[command.index("--runs") + 1]) / "fast-0").exists() == goes_on
        return (
            "seed 0  one view 93.14%  six views 93.77%  in 2.5 s\nseed 1  one view 93.1%  six views 94.0%  in 2.7 s\n"
        )

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(training, "said_by", said)
    (tmp_path / "trainings" / "fast-0").mkdir(parents=True)
    rows = list(training.fast(Context(Options(work=str(tmp_path), data="cifar"), before)))
    assert (rows[0].value, rows[1].name, rows[1].met) == (2.6, "accuracy by six views, mean", False)
