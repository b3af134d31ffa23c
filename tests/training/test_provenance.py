"""Where weights come from."""

from __future__ import annotations

import re
import subprocess

import pytest
import torch

from training import provenance as provenance_module
from training.device import Precision
from training.provenance import git_revision, provenance


def test_it_is_plain_text_that_a_checkpoint_can_hold() -> None:
    found = provenance(torch.device("cpu"), Precision.FP32)
    assert {type(value) for value in found.values()} == {str}
    assert found["precision"] == "fp32"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", found["git_revision"])


def test_without_git_the_revision_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_git(*_: object) -> str:
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(provenance_module, "_git", no_git)
    assert git_revision() == "unknown"
