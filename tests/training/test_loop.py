"""Training runs: they learn, they stop at any step, and they resume to the same bits."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training import checkpoint as checkpoints
from training import loop
from training.checkpoint import Teacher, load_teacher
from training.data import TrainingData, load_training_data
from training.device import Precision
from training.errors import CheckpointError, Interrupted
from training.loop import Run, build_network, train
from training.recipes import RECIPES, TrainConfig

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("narrow_networks")
SMALL = {
    "cifar10-teacher-44": replace(RECIPES["cifar10-teacher-44"], epochs=2, batch_size=100, max_steps=22),
    "cifar10": replace(RECIPES["cifar10"], epochs=2, batch_size=100, max_steps=22),
    "tutorial": replace(RECIPES["tutorial"], epochs=3, batch_size=300),
}


@pytest.fixture
def data(generated_data: Path) -> TrainingData:
    return load_training_data(generated_data)


def run(
    recipe: str, data: TrainingData, config: TrainConfig | None = None, precision: Precision = Precision.FP32
) -> Run:
    config = config or SMALL[recipe]
    teachers = tuple(untrained_teacher(seed, data) for seed in range(len(config.teachers)))
    return Run(recipe, config, data, CPU, precision, teachers)


def untrained_teacher(seed: int, data: TrainingData) -> Teacher:
    config = replace(SMALL["cifar10-teacher-44"], seed=seed)
    return Teacher("untrained", config, data.labels, build_network(config, data, CPU).state_dict(), {})


def same_weights(one: Run, other: Run) -> bool:
    a, b = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_learns(data: TrainingData, tmp_path: Path) -> None:
    trained = run("cifar10-teacher-44", data)
    train(trained, tmp_path)
    assert trained.history[-1].validation_accuracy > 0.3  # three times chance, after 22 steps
    assert [record.epoch for record in trained.history] == [1, 2]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(data: TrainingData, tmp_path: Path) -> None:
    once, again = run("tutorial", data), run("tutorial", data)
    other = run("tutorial", data, replace(SMALL["tutorial"], seed=1))
    for number, each in enumerate((once, again, other)):
        train(each, tmp_path / str(number))
    assert same_weights(once, again)
    assert not same_weights(once, other)


@pytest.mark.parametrize("recipe", SMALL)
@pytest.mark.parametrize("stop_after", [1, 7, 18])
def test_a_stopped_run_resumes_to_the_same_bits(
    recipe: str, stop_after: int, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(recipe, data)
    stop_after = min(stop_after, whole.total_steps - 1)
    train(whole, tmp_path / "whole")

    step = loop.train_one_step

    def step_then_signal(each: Run, indices: torch.Tensor, epoch: int) -> float:
        loss = step(each, indices, epoch)
        if each.step == stop_after:
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_one_step", step_then_signal)
        with pytest.raises(Interrupted, match=f"after {stop_after} of"):
            train(run(recipe, data), tmp_path / "stopped")

    saved = checkpoints.load(tmp_path / "stopped")
    resumed = Run(saved.recipe, saved.config, data, CPU, Precision.FP32, saved.teachers)
    resumed.restore(saved)
    assert resumed.step == stop_after
    train(resumed, tmp_path / "stopped")
    assert same_weights(whole, resumed)
    assert [r.loss for r in resumed.history] == [r.loss for r in whole.history]


def test_a_killed_run_resumes_from_its_last_epoch_to_the_same_bits(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("tutorial", data)
    train(whole, tmp_path / "whole")
    step = loop.train_one_step

    def die(each: Run, indices: torch.Tensor, epoch: int) -> float:
        if each.step == 8:
            raise MemoryError  # nothing is saved on the way out, as after kill -9
        return step(each, indices, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_one_step", die)
        with pytest.raises(MemoryError):
            train(run("tutorial", data), tmp_path / "killed")

    resumed = run("tutorial", data)
    resumed.restore(checkpoints.load(tmp_path / "killed"))
    assert resumed.step == 6
    train(resumed, tmp_path / "killed")
    assert same_weights(whole, resumed)


def test_signals_are_left_as_they_were(data: TrainingData, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(run("tutorial", data, replace(SMALL["tutorial"], max_steps=1)), tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_bf16_trains_too(data: TrainingData, tmp_path: Path) -> None:
    trained = run("tutorial", data, replace(SMALL["tutorial"], epochs=1), Precision.BF16)
    train(trained, tmp_path)
    assert torch.isfinite(next(trained.model.parameters())).all()


def test_other_data_is_refused_on_resuming(data: TrainingData, tmp_path: Path) -> None:
    train(run("tutorial", data, replace(SMALL["tutorial"], epochs=1)), tmp_path)
    fewer = replace(data, train=replace(data.train, images=data.train.images[:900], labels=data.train.labels[:900]))
    with pytest.raises(CheckpointError, match="other data"):
        run("tutorial", fewer, replace(SMALL["tutorial"], epochs=1)).restore(checkpoints.load(tmp_path))


def test_the_whitening_bias_stops_learning_after_its_epochs(data: TrainingData, tmp_path: Path) -> None:
    config = replace(SMALL["cifar10-teacher-44"], epochs=2, max_steps=None, whiten_bias_epochs=1, lookahead=False)
    first = run("cifar10-teacher-44", data, replace(config, max_steps=18, lr_schedule="constant"))
    train(first, tmp_path / "first")
    second = run("cifar10-teacher-44", data, replace(config, lr_schedule="constant"))
    train(second, tmp_path / "second")
    assert torch.equal(first.model.state_dict()["whiten.bias"], second.model.state_dict()["whiten.bias"])
    assert not torch.equal(first.model.state_dict()["head.weight"], second.model.state_dict()["head.weight"])


def test_a_student_starts_from_its_first_teacher_and_learns_what_the_teachers_know(
    data: TrainingData, tmp_path: Path
) -> None:
    teacher = run("cifar10-teacher-44", data)
    train(teacher, tmp_path / "teacher")
    finished = load_teacher(tmp_path / "teacher")
    config = replace(SMALL["cifar10"], teachers=("cifar10-teacher-44",))
    warm = Run("cifar10", config, data, CPU, Precision.FP32, (finished,))
    assert same_weights(warm, teacher)

    wrong = replace(data, train=replace(data.train, labels=torch.zeros_like(data.train.labels)))
    cold = Run("cifar10", replace(config, start_from_teacher=False), wrong, CPU, Precision.FP32, (finished,))
    assert not same_weights(cold, teacher)
    train(cold, tmp_path / "student")
    assert cold.history[-1].validation_accuracy > 0.3  # as good as its teacher, and it has seen no label


def test_teachers_must_be_those_of_the_recipe(data: TrainingData) -> None:
    teacher = untrained_teacher(0, data)
    with pytest.raises(CheckpointError, match=r"learns from 2 finished runs .*--teachers names 1"):
        Run("cifar10", SMALL["cifar10"], data, CPU, Precision.FP32, (teacher,))
    with pytest.raises(CheckpointError, match=r"learns from 0 finished runs .none"):
        Run("tutorial", SMALL["tutorial"], data, CPU, Precision.FP32, (teacher,))
    stranger = replace(teacher, labels=("cat", "dog"))
    with pytest.raises(CheckpointError, match="other classes"):
        Run("cifar10", SMALL["cifar10"], data, CPU, Precision.FP32, (teacher, stranger))
    small = replace(teacher, config=replace(teacher.config, architecture="tutorial-cnn"))
    with pytest.raises(CheckpointError, match="a tutorial-cnn, not a plain-cnn"):
        Run("cifar10", SMALL["cifar10"], data, CPU, Precision.FP32, (small, teacher))
