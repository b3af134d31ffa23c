"""Training on the GPU is skipped for what it lacks itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.gpu import training
from tests.gpu.steps import Options, Skip
from tests.gpu.subject import Context


@pytest.mark.parametrize(("there", "reason"), [(False, "torch has no CUDA"), (True, "--data FOLDER")])
def test_torch_is_asked_for_the_gpu_and_not_onnx_runtime(
    there: bool, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    with pytest.raises(Skip, match=reason):
        next(training.fast(Context(Options(work=str(tmp_path)))))
