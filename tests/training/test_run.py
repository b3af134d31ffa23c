"""Where a run begins and how it comes back from a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.runs import CPU, SMALL, run, untrained_teacher
from training import checkpoint as checkpoints
from training.checkpoint import load_teacher
from training.data import TrainingData, load_training_data
from training.device import Precision
from training.errors import CheckpointError
from training.loop import train
from training.run import Run

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture
def data(generated_data: Path) -> TrainingData:
    return load_training_data(generated_data)


def test_the_last_epoch_may_end_early(data: TrainingData, tmp_path: Path) -> None:
    each = run("tutorial", data, replace(SMALL["tutorial"], epochs=1.5))
    assert (each.steps_per_epoch, each.total_steps) == (6, 9)
    train(each, tmp_path)
    assert [record.epoch for record in each.history] == [1, 2]
    assert load_teacher(tmp_path).config.epochs == 1.5


def test_teachers_must_be_those_of_the_recipe(data: TrainingData) -> None:
    teacher = untrained_teacher(0, data)
    with pytest.raises(CheckpointError, match=r"learns from 2 finished runs .*--teachers names 1"):
        Run("cifar10-plain", SMALL["cifar10-plain"], data, CPU, Precision.FP32, (teacher,))
    with pytest.raises(CheckpointError, match=r"learns from 0 finished runs .none"):
        Run("tutorial", SMALL["tutorial"], data, CPU, Precision.FP32, (teacher,))
    stranger = replace(teacher, labels=("cat", "dog"))
    with pytest.raises(CheckpointError, match="other classes"):
        Run("cifar10-plain", SMALL["cifar10-plain"], data, CPU, Precision.FP32, (teacher, stranger))
    small = replace(teacher, config=replace(teacher.config, architecture="tutorial-cnn"))
    with pytest.raises(CheckpointError, match="a tutorial-cnn, not a plain-cnn"):
        Run("cifar10-plain", SMALL["cifar10-plain"], data, CPU, Precision.FP32, (small, teacher))


def test_other_data_is_refused_on_resuming(data: TrainingData, tmp_path: Path) -> None:
    train(run("tutorial", data, replace(SMALL["tutorial"], epochs=1)), tmp_path)
    fewer = replace(data, train=replace(data.train, images=data.train.images[:900], labels=data.train.labels[:900]))
    with pytest.raises(CheckpointError, match="other data"):
        run("tutorial", fewer, replace(SMALL["tutorial"], epochs=1)).restore(checkpoints.load(tmp_path))
