"""Device and number format."""

from __future__ import annotations

import pytest
import torch

from training.device import Precision, choose_device, choose_precision
from training.errors import TrainingError

CPU = torch.device("cpu")


def test_auto_takes_bf16_only_where_the_cpu_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported, precision in ((True, Precision.BF16), (False, Precision.FP32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported)
        assert choose_precision("auto", CPU) is precision


def test_a_precision_can_be_demanded() -> None:
    assert choose_precision("bf16", CPU) is Precision.BF16
    with pytest.raises(TrainingError, match="fp16 training needs CUDA"):
        choose_precision("fp16", CPU)


def test_bf16_is_refused_on_a_gpu_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(TrainingError, match="does not compute in bf16; use --precision fp16 or fp32"):
        choose_precision("bf16", torch.device("cuda"))


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(TrainingError, match="no CUDA device"):
        choose_device("cuda")


def test_autocast_computes_in_the_chosen_format() -> None:
    x = torch.ones((2, 2))
    for precision, dtype in ((Precision.BF16, torch.bfloat16), (Precision.FP32, torch.float32)):
        with precision.autocast(CPU):
            assert (x @ x).dtype is dtype
