"""What the checks are made of computes what they say."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from service.loading import GOLDEN_TOLERANCE
from service.metadata import ModelMetadata
from tests.gpu import peer
from tests.gpu.roofline import count
from tests.gpu.steps import ROOT, Options, Skip
from tests.gpu.subject import Context, generated, model_file, model_folder, session

MODEL = ROOT / "models" / "tutorial-cnn" / "1"
MODELS = pytest.mark.parametrize("model", [ROOT / Options.model, MODEL], ids=lambda folder: folder.parent.name)


def probabilities(context: Context, precision: str) -> np.ndarray:
    answer: np.ndarray = session(context, precision, device="cpu").run(None, {"image": generated(16)})[0]  # type: ignore[arg-type]
    return answer


def test_a_model_without_an_fp16_file_gets_one_that_says_the_same(tmp_path: Path) -> None:
    context = Context(Options(model=str(MODEL), work=str(tmp_path)))
    assert ModelMetadata.read(model_folder(context)).files.keys() == {"fp32", "fp16"}
    difference = np.abs(probabilities(context, "fp16") - probabilities(context, "fp32")).max()
    assert 0 < difference < GOLDEN_TOLERANCE["fp16"]


@MODELS
def test_pytorch_has_the_same_network(model: Path, tmp_path: Path) -> None:
    context = Context(Options(model=str(model), work=str(tmp_path)))
    with torch.inference_mode():
        theirs = peer.network(context, torch.float32)(torch.from_numpy(generated(16))).numpy()
    assert np.abs(theirs - probabilities(context, "fp32")).max() < 1e-4


def test_pytorch_is_skipped_for_a_network_from_elsewhere(tmp_path: Path) -> None:
    metadata = ModelMetadata.read(shutil.copytree(MODEL, tmp_path / "models" / "foreign" / "1"))
    metadata.model_copy(update={"architecture": "resnet-from-elsewhere"}).write(tmp_path / "models" / "foreign" / "1")
    context = Context(Options(model=str(tmp_path / "models" / "foreign" / "1"), work=str(tmp_path)))
    with pytest.raises(Skip, match="has no network for"):
        peer.network(context, torch.float32)


@MODELS
def test_operations_are_those_of_the_metadata_and_bytes_shrink_with_the_numbers(model: Path, tmp_path: Path) -> None:
    context, metadata = Context(Options(model=str(model), work=str(tmp_path))), ModelMetadata.read(model)
    whole = count(model_file(context, "fp32"), "fp32", 8)
    assert whole.operations == 2 * metadata.macs * 8
    assert 0.5 <= count(model_file(context, "fp16"), "fp16", 8).moved_bytes / whole.moved_bytes < 0.55
