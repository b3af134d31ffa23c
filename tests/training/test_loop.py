"""Training runs: they learn, they stop at any step, and they resume to the same bits."""

from __future__ import annotations

import errno
import os
import signal
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from tests.runs import CPU, SMALL, run, same_weights, small, untrained_teacher
from training import checkpoint as checkpoints
from training import loop, process
from training.checkpoint import EpochRecord, Teacher, load_teacher
from training.data import TrainingData, load_training_data
from training.device import Precision
from training.errors import CheckpointError, Interrupted
from training.loop import train
from training.progress import Progress
from training.recipes import SEEDS
from training.run import Run

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture
def data(generated_data: Path) -> TrainingData:
    return small(load_training_data(generated_data))


def test_a_run_learns(data: TrainingData, tmp_path: Path) -> None:
    trained = run("cifar10-teacher-44", data)
    train(trained, tmp_path)
    assert (trained.history[-1].validation_accuracy or 0) > 0.3  # three times chance, after 22 steps
    assert [record.epoch for record in trained.history] == [1, 2]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(data: TrainingData, tmp_path: Path) -> None:
    once, again = run("tutorial", data), run("tutorial", data)
    other = run("tutorial", data, replace(SMALL["tutorial"], seed=1))
    for number, each in enumerate((once, again, other)):
        train(each, tmp_path / str(number))
    assert same_weights(once, again)
    assert not same_weights(once, other)


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Run]:
    """The recipes' runs from their first step to their last, each made once."""
    return {}


@pytest.mark.parametrize(
    ("recipe", "stop_after"),
    [
        *((recipe, 7) for recipe in SMALL),
        *((recipe, step) for recipe in ("cifar10", "cifar10-small-robust") for step in (1, 18)),  # in either cycle
    ],
)
def test_a_stopped_run_resumes_to_the_same_bits(
    recipe: str,
    stop_after: int,
    undisturbed: dict[str, Run],
    data: TrainingData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if recipe not in undisturbed:
        undisturbed[recipe] = run(recipe, data)
        train(undisturbed[recipe], tmp_path / "whole")
    whole = undisturbed[recipe]
    stop_after = min(stop_after, whole.total_steps - 1)

    step = loop.train_one_step

    def step_then_signal(each: Run, indices: torch.Tensor, epoch: int) -> torch.Tensor:
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

    def die(each: Run, indices: torch.Tensor, epoch: int) -> torch.Tensor:
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


def test_an_epoch_is_saved_before_it_is_shown(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []

    def show(_self: Progress, record: EpochRecord, *_: object) -> None:
        saved.append(len(checkpoints.load(tmp_path).history))
        assert saved[-1] == record.epoch

    monkeypatch.setattr(Progress, "epoch", show)
    train(run("tutorial", data), tmp_path)
    assert saved == [1, 2, 3]


@pytest.mark.parametrize("reason", [errno.EPIPE, errno.EIO])
def test_a_reader_or_a_terminal_that_has_gone_does_not_end_a_run(
    reason: int, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Mock(write=Mock(side_effect=OSError(reason, os.strerror(reason))))
    monkeypatch.setattr(sys, "stdout", gone)
    train(run("tutorial", data), tmp_path)
    assert gone.write.called
    assert checkpoints.load(tmp_path).finished


def test_a_folder_that_is_taken_or_can_not_be_written_is_refused_before_the_first_step(
    data: TrainingData, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    each = run("tutorial", data)
    with pytest.raises(CheckpointError, match="Nothing can be written into"):
        train(each, tmp_path / "file")
    with checkpoints.claimed(tmp_path / "run"), pytest.raises(CheckpointError, match="Another process is training"):
        train(each, tmp_path / "run")
    assert each.step == 0


def test_what_another_process_has_trained_meanwhile_is_not_written_over(data: TrainingData, tmp_path: Path) -> None:
    first, late = run("tutorial", data), run("tutorial", data)
    train(first, tmp_path / "run")
    told = r"meanwhile trained .*run to step 18; go on from there with: convoy-train train --resume .*run"
    with pytest.raises(CheckpointError, match=told):
        train(late, tmp_path / "run")
    assert checkpoints.load(tmp_path / "run").finished
    assert late.step == 0


def test_signals_are_left_as_they_were(data: TrainingData, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(run("tutorial", data, replace(SMALL["tutorial"], max_steps=1)), tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_every_seed_stream_and_step_has_random_numbers_of_its_own() -> None:
    drawn = {
        tuple(torch.rand(4, generator=loop._generator(seed, step, stream)).tolist())
        for seed in (0, 1, 2, SEEDS - 1)
        for stream in (loop.VIEW, loop.DEGRADATION)
        for step in (0, 1, 7, 100_000)
    }
    assert len(drawn) == 4 * 2 * 4


def test_seeds_keep_clear_of_each_other_for_as_long_as_a_run_may_be() -> None:
    begins = sorted(loop._generator(seed, 0, loop.VIEW).initial_seed() for seed in range(SEEDS))
    assert min(after - before for before, after in pairwise(begins)) > 100_000


def test_bf16_trains_too(data: TrainingData, tmp_path: Path) -> None:
    trained = run("tutorial", data, replace(SMALL["tutorial"], epochs=1), Precision.BF16)
    train(trained, tmp_path)
    assert torch.isfinite(next(trained.model.parameters())).all()


def test_a_student_starts_from_its_first_teacher_and_learns_what_the_teachers_know(
    data: TrainingData, tmp_path: Path
) -> None:
    teacher = run("cifar10-teacher-44", data)
    train(teacher, tmp_path / "teacher")
    finished = load_teacher(tmp_path / "teacher")
    config = replace(SMALL["cifar10-plain"], teachers=("cifar10-teacher-44",))
    warm = Run("cifar10-plain", config, data, CPU, Precision.FP32, (finished,))
    assert same_weights(warm, teacher)

    wrong = replace(data, train=replace(data.train, labels=torch.zeros_like(data.train.labels)))
    config = replace(config, start_from_teacher=False, epochs=4, max_steps=None)
    cold = Run("cifar10-plain", config, wrong, CPU, Precision.FP32, (finished,))
    assert not same_weights(cold, teacher)
    train(cold, tmp_path / "student")
    assert (cold.history[-1].validation_accuracy or 0) > 0.3  # as good as its teacher, and it has seen no label


def test_a_student_is_held_to_its_teachers_at_the_temperature_they_answer_at(data: TrainingData) -> None:
    config = replace(SMALL["cifar10-small-robust"], distill_temperature=3.0)
    each, twin = run("cifar10-small-robust", data, config), run("cifar10-small-robust", data, config)
    images, targets = loop.next_batch(twin, torch.arange(50))
    logits = twin.model.train()(images.permute(0, 3, 1, 2).float())
    softened = torch.nn.functional.kl_div((logits / 3).log_softmax(1), targets, reduction="batchmean")
    entropy = -(targets * targets.log()).sum(1).mean()
    assert torch.allclose(loop.train_one_step(each, torch.arange(50), 0), 9 * (softened + entropy), rtol=1e-5)


def test_the_labels_of_mixed_images_are_mixed_where_no_teacher_says_what_they_are(data: TrainingData) -> None:
    config = replace(SMALL["cifar10-teacher-44"], augmentations=("cutmix-50",))
    images, targets = loop.next_batch(run("cifar10-teacher-44", data, config), torch.arange(25))
    before, labels = data.train.images[:25], torch.nn.functional.one_hot(data.train.labels[:25], 10)
    untouched = (images == before).flatten(1).all(1)
    assert torch.equal(targets[untouched].long(), labels[untouched])
    assert torch.allclose(targets.sum(1), torch.ones(25))
    covered = (images != before).any(3).float().mean((1, 2))
    assert torch.allclose(1 - (targets * labels).sum(1), covered * (labels != labels.roll(1, 0)).any(1), atol=0.1)


def test_views_repeat_with_the_cycle_and_their_answers_are_remembered(data: TrainingData) -> None:
    each = run("cifar10-small-robust", data, replace(SMALL["cifar10-small-robust"], degradations=()))
    ensemble, asked = each.ensemble, 0

    def counted(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        nonlocal asked
        asked += 1
        assert ensemble
        return ensemble.targets(pixels, generator)

    each.ensemble = Mock(targets=counted)
    seen = []
    for each.step in range(36):  # nine steps an epoch, two epochs a cycle
        seen.append(loop.next_batch(each, torch.arange(50)))
    assert asked == 18
    for first, second in zip(seen[:18], seen[18:], strict=True):
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
    assert not torch.equal(seen[0][0], seen[9][0])
    assert not torch.equal(seen[0][1], seen[9][1])


def test_a_student_inherits_what_the_last_teacher_was_told_and_asks_nobody(data: TrainingData, tmp_path: Path) -> None:
    config = replace(SMALL["cifar10-small-robust"], max_steps=None, degradations=())
    told = run("cifar10-small-robust", data, config)
    train(told, tmp_path / "told")
    heir = replace(config, teachers=("untrained", "told"), inherit_answers=True, degradations=("grey-4",))
    teachers = (untrained_teacher(0, data), load_teacher(tmp_path / "told"))
    student = Run("heir", heir, data, CPU, Precision.FP32, teachers)
    assert student.ensemble is None
    with pytest.raises(Interrupted):
        train(student, tmp_path / "heir", time_budget_s=0.001)
    saved = checkpoints.load(tmp_path / "heir")
    resumed = Run("heir", heir, data, CPU, Precision.FP32, saved.teachers)
    resumed.restore(saved)
    for told.step in range(36):
        student.step = resumed.step = told.step
        expected, got, later = (loop.next_batch(each, torch.arange(50)) for each in (told, student, resumed))
        assert torch.equal(expected[1], got[1])
        assert torch.equal(expected[1], later[1])
    train(resumed, tmp_path / "heir")
    heirs_heir = Run("heir", heir, data, CPU, Precision.FP32, (teachers[0], load_teacher(tmp_path / "heir")))
    heirs_heir.step = told.step
    assert torch.equal(loop.next_batch(heirs_heir, torch.arange(50))[1], expected[1])


def test_answers_that_are_missing_or_about_other_views_are_refused(data: TrainingData, tmp_path: Path) -> None:
    config = replace(SMALL["cifar10-small-robust"], max_steps=20, degradations=())
    told = run("cifar10-small-robust", data, config)
    train(told, tmp_path)
    whole = load_teacher(tmp_path)
    heir = replace(config, teachers=("told",), inherit_answers=True, architecture="plain-cnn")

    def start(teacher: Teacher, **changes: int | tuple[str, ...]) -> Run:
        return Run("heir", replace(heir, **changes), data, CPU, Precision.FP32, (teacher,))  # type: ignore[arg-type]

    assert start(whole, epochs=7).memory
    assert whole.answers is not None
    partly = whole.answers.clone()
    partly[-1] = torch.nan
    for answers in (None, partly):
        with pytest.raises(CheckpointError, match="no answers, or not all; name the folder of a whole run"):
            start(replace(whole, answers=answers))
    with pytest.raises(CheckpointError, match=r"views .*: seed, augmentations, distill_temperature must be the same"):
        start(whole, seed=1, augmentations=("crop-4",), distill_temperature=9)
    moved = replace(data.train, images=data.train.images.roll(1, 0))  # as when a picture came in before them
    for teacher, images in ((replace(whole, answers=whole.answers[1:]), data.train), (whole, moved)):
        with pytest.raises(CheckpointError, match="the training images must be the same"):
            Run("heir", heir, replace(data, train=images), CPU, Precision.FP32, (teacher,))


def test_degradations_are_drawn_anew_in_every_cycle_and_the_teachers_do_not_see_them(data: TrainingData) -> None:
    config = replace(SMALL["cifar10-small-robust"], view_cycle=None)
    plain = run("cifar10-small-robust", data, replace(config, degradations=()))
    cycled, degraded = run("cifar10-small-robust", data), run("cifar10-small-robust", data, config)
    indices = torch.arange(50)
    first, clean, fresh = (loop.next_batch(each, indices) for each in (cycled, plain, degraded))
    cycled.step = 18
    second = loop.next_batch(cycled, indices)
    assert torch.equal(fresh[1], clean[1])
    assert torch.equal(fresh[0], first[0])
    untouched = (clean[0] == first[0]).flatten(1).all(1)
    assert 12 < int(untouched.sum()) < 36  # of 50; 48 % are to be
    assert not torch.equal(untouched, (clean[0] == second[0]).flatten(1).all(1))


def test_the_order_repeats_with_the_cycle(data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[torch.Tensor] = []

    def note(each: Run, indices: torch.Tensor, _epoch: int) -> torch.Tensor:
        orders.append(indices)
        each.step += 1
        return torch.zeros(())

    monkeypatch.setattr(loop, "train_one_step", note)
    train(run("cifar10-small-robust", data, replace(SMALL["cifar10-small-robust"], max_steps=None)), tmp_path)
    assert len(orders) == 36
    assert all(torch.equal(a, b) for a, b in zip(orders[:18], orders[18:], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(orders[:9], orders[9:18], strict=True))


def test_a_run_stops_when_its_time_is_up_and_goes_on_later(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = run("tutorial", data), run("tutorial", data)
    train(whole, tmp_path / "whole")
    with monkeypatch.context() as context:
        context.setattr(process, "time", Mock(monotonic=lambda: stopped.step))  # a clock that only the steps move
        with pytest.raises(Interrupted, match="Stopped after 1 of 18 steps"):
            train(stopped, tmp_path / "stopped", time_budget_s=1)
    resumed = run("tutorial", data)
    resumed.restore(checkpoints.load(tmp_path / "stopped"))
    train(resumed, tmp_path / "stopped", time_budget_s=1_000)
    assert same_weights(whole, resumed)


def test_without_validation_images_no_accuracy_is_told(
    data: TrainingData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    each = run("tutorial", data.whole(), replace(SMALL["tutorial"], max_steps=3))
    train(each, tmp_path)
    assert each.history[-1].validation_accuracy is None
    assert "validation" not in capsys.readouterr().out
    assert checkpoints.load(tmp_path).history == tuple(each.history)


def test_the_bias_of_the_whitening_learns_in_the_first_epochs_only(data: TrainingData) -> None:
    config = replace(SMALL["cifar10-teacher-44"], epochs=3, max_steps=None, whiten_bias_epochs=1)
    biases: list[torch.Tensor] = []
    for steps in (18, 19, 54):  # 18 are an epoch
        each = run("cifar10-teacher-44", data, replace(config, max_steps=steps))
        each.total_steps, each.config = 54, config  # the same schedule for all
        while each.step < steps:
            loop.train_one_step(each, torch.arange(25) + each.step, each.step // each.steps_per_epoch)
        biases.append(each.model.whiten.bias.detach())  # type: ignore[operator, union-attr]
    assert biases[0].abs().sum() > 0
    assert torch.equal(biases[0], biases[1])
    assert torch.equal(biases[0], biases[2])
