"""A recipe's accuracy over seeds."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from training import trials
from training.data import TrainingData, load_training_data
from training.device import Precision
from training.errors import CheckpointError
from training.recipes import RECIPES
from training.trials import Trainer, Trial, measured, summary

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture
def data(generated_data: Path) -> TrainingData:
    return load_training_data(generated_data)


@pytest.fixture
def trainer(data: TrainingData) -> Trainer:
    config = replace(RECIPES["fast"], epochs=2, batch_size=100, max_steps=22)
    return Trainer("fast", config, data, torch.device("cpu"), Precision.FP32)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs that these tests look at are kept."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture(scope="module")
def first() -> list[Trial]:
    """What was measured right after these runs were trained."""
    return []


@pytest.fixture
def runs(shelf: Path, first: list[Trial], trainer: Trainer, data: TrainingData, tmp_path: Path) -> Path:
    """Two seeds', trained once."""
    if not first:
        first.extend(measured(trainer, range(2), shelf / "runs", data.validation))
    return Path(shutil.copytree(shelf / "runs", tmp_path / "runs"))


def test_every_seed_is_trained_and_measured_by_one_view_and_by_six(
    trainer: Trainer, data: TrainingData, runs: Path
) -> None:
    found = list(measured(trainer, range(2), runs, data.validation))
    assert [trial.seed for trial in found] == [0, 1]
    assert all(trial.seconds > 0 for trial in found)
    assert all(trial.one_view > 0.2 and trial.six_views > 0.2 for trial in found)  # twice chance, after 22 steps
    assert {path.name for path in runs.iterdir()} == {"fast-0", "fast-1"}


def test_finished_seeds_are_not_trained_again(
    trainer: Trainer, data: TrainingData, runs: Path, first: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.loop.train_one_step", Mock(side_effect=AssertionError))
    assert list(measured(trainer, range(2), runs, data.validation)) == first


def test_a_run_with_other_settings_is_not_taken_for_a_trial(trainer: Trainer, data: TrainingData, runs: Path) -> None:
    other = replace(trainer, config=replace(trainer.config, lr=1.0))
    with pytest.raises(CheckpointError, match="other settings"):
        list(trials.measured(other, [0], runs, data.validation))


def test_a_run_in_another_number_format_is_not_taken_for_a_trial(
    trainer: Trainer, data: TrainingData, runs: Path
) -> None:
    with pytest.raises(CheckpointError, match="holds a run in fp32; add --precision fp32"):
        list(trials.measured(replace(trainer, precision=Precision.BF16), [0], runs, data.validation))


def test_numbers_of_views_are_never_mixed_in_the_summary() -> None:
    assert summary([Trial(0, 0.9, 0.92, 3.0), Trial(1, 0.91, 0.94, 4.0)]).splitlines() == [
        "one view   90.50 ± 0.71 % over 2 seeds",
        "six views  93.00 ± 1.41 % over 2 seeds",
        "training   3.5 s on average, validation and checkpoints left out",
    ]
    assert summary([Trial(0, 0.9, 0.92, 3.0)]).splitlines()[0] == "one view   90.00 % over 1 seeds"
