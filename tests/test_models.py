"""The models that are shipped: whole, honest, and as good as their cards say."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from service.metadata import CARD, ModelMetadata, Precision
from tests.conftest import REAL_DATA
from training import plots, report
from training.evaluate import evaluate_model
from training.golden import pictures
from training.onnx_graph import run_onnx
from training.stages import write_stages

ROOT = Path(__file__).parents[1]
ACCURACY_BAR = {"cifar10/9": 0.94, "cifar10-small/5": 0.92, "tutorial-cnn/1": 0.74}  # of 10,000 test images, one view
CHEAP_MACS = 50_000_000  # up to which fp32 is measured again here; test_every_image.py does it for a larger one
FOLDERS = sorted(path.parent for path in ROOT.glob("models/*/*/metadata.json"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def folder(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_the_default_model_is_shipped() -> None:
    assert ROOT / "models" / "cifar10" / "9" in FOLDERS


def test_files_are_those_of_the_metadata(folder: Path) -> None:
    metadata = ModelMetadata.read(folder)
    assert (metadata.name, metadata.version) == (folder.parent.name, folder.name)
    assert metadata.stages
    for record in (*metadata.files.values(), metadata.golden, metadata.stages.file):
        record.verify(folder)


def test_the_stages_shown_are_those_of_the_graph(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "model.onnx", tmp_path)
    assert write_stages(tmp_path / "model.onnx") == ModelMetadata.read(folder).stages


def test_files_tell_nothing_of_the_machine_that_made_them(folder: Path) -> None:
    for file in ModelMetadata.read(folder).files.values():
        content = (folder / file.name).read_bytes()
        assert b'File "' not in content  # the exporter's stack traces
        assert b"site-packages" not in content


def test_the_card_is_the_one_its_metadata_makes(folder: Path) -> None:
    metadata = ModelMetadata.read(folder)
    assert (folder / CARD).read_text() == report.card(metadata)
    if shown := report.plotted(metadata):
        assert (folder / report.RELIABILITY).read_text() == plots.reliability_svg(shown)


def test_the_plot_shows_the_models_that_are_shipped() -> None:
    assert (ROOT / "models" / plots.ACCURACY).read_text() == plots.accuracy_svg(plots.shipped(ROOT / "models"))


def test_golden_samples_are_generated_and_come_out_as_recorded(folder: Path) -> None:
    with np.load(folder / "golden.npz") as arrays:
        assert np.array_equal(arrays["images"], pictures(32, 32))
        assert np.abs(run_onnx(folder / "model.onnx", arrays["images"]) - arrays["probabilities"]).max() <= 1e-4


def test_the_test_split_was_measured_whole_and_reaches_the_bar(folder: Path) -> None:
    metadata = ModelMetadata.read(folder)
    tests = [e for e in metadata.evaluations if e.split == "test"]
    assert {e.precision for e in tests} == set(metadata.files)
    for test in tests:
        assert test.images == 10_000
        assert test.accuracy >= ACCURACY_BAR[f"{folder.parent.name}/{folder.name}"]


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real CIFAR-10 is not here")
def test_recorded_numbers_are_measured_again(folder: Path) -> None:
    metadata = ModelMetadata.read(folder)
    recorded = {e.precision: e for e in metadata.evaluations if e.split == "test"}
    cheap: tuple[Precision, ...] = ("int8", "fp32") if metadata.macs < CHEAP_MACS else ("int8",)  # fp16 is as fp32 here
    for again in evaluate_model(folder, REAL_DATA, precisions=cheap):
        before = recorded[again.precision]
        assert again.accuracy == pytest.approx(before.accuracy, abs=2e-4)  # another CPU may round one image differently
        for measure in ("nll", "brier", "ece", "ece_uncalibrated"):
            assert getattr(again, measure) == pytest.approx(getattr(before, measure), abs=1e-3)
