"""Where a run begins and how it comes back from a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.runs import CPU, SMALL, run, small, untrained_teacher
from training import checkpoint as checkpoints
from training import loop
from training.checkpoint import EpochRecord, load_teacher
from training.data import TrainingData, load_training_data
from training.device import Precision
from training.errors import CheckpointError
from training.loop import next_batch, train
from training.run import Run

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture
def data(generated_data: Path) -> TrainingData:
    return small(load_training_data(generated_data))


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
    for labels in (("cat", "dog"), data.labels[::-1]):
        stranger = replace(teacher, labels=labels)
        with pytest.raises(CheckpointError, match="other classes"):
            Run("cifar10-plain", SMALL["cifar10-plain"], data, CPU, Precision.FP32, (teacher, stranger))
    small = replace(teacher, config=replace(teacher.config, architecture="tutorial-cnn"))
    with pytest.raises(CheckpointError, match=r"kind tutorial-cnn, and .* trains one of kind plain-cnn;"):
        Run("cifar10-plain", SMALL["cifar10-plain"], data, CPU, Precision.FP32, (small, teacher))


def test_the_learning_rate_begins_anew_and_the_last_weights_are_the_mean_over_all_cycles(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = run("cifar10", data)
    assert each.steps_per_epoch == 9
    rates, ends = [], [each.teachers[0].model["head.weight"]]
    step = loop.train_one_step

    def noted(stepping: Run, indices: torch.Tensor, epoch: int) -> torch.Tensor:
        loss = step(stepping, indices, epoch)
        rates.append(stepping.optimizer.param_groups[0]["lr"] / stepping.full_lrs[0])
        if stepping.step % 9 == 0:
            ends.append(stepping.model.state_dict()["head.weight"].clone())
        return loss

    monkeypatch.setattr(loop, "train_one_step", noted)
    train(each, tmp_path)
    assert rates == 3 * [pytest.approx(1 - place / 9) for place in range(9)]
    assert torch.allclose(each.model.state_dict()["head.weight"], sum(ends[1:], 3 * ends[0]) / 6, atol=1e-6)
    assert checkpoints.load(tmp_path).kept == ()


def test_a_start_that_does_not_teach_is_not_asked(data: TrainingData) -> None:
    start, *teachers = (untrained_teacher(seed, data) for seed in range(len(SMALL["cifar10"].teachers)))
    silent = Run("cifar10", SMALL["cifar10"], data, CPU, Precision.FP32, (start, *teachers))
    without = replace(SMALL["cifar10"], teachers=SMALL["cifar10"].teachers[1:], start_from_teacher=False)
    without = replace(without, start_teaches=True)
    other = Run("cifar10", without, data, CPU, Precision.FP32, tuple(teachers))
    for silent.step in range(12):
        other.step = silent.step
        asked, expected = (next_batch(each, torch.arange(silent.config.batch_size))[1] for each in (silent, other))
        assert torch.equal(asked, expected)


@pytest.mark.parametrize("restarts", [(), (1, 2)])
def test_a_start_whose_degradations_are_unknown_is_refused_at_once(
    data: TrainingData, restarts: tuple[int, ...]
) -> None:
    start, *teachers = (untrained_teacher(seed, data) for seed in range(len(SMALL["cifar10"].teachers)))
    stranger = replace(start, config=replace(start.config, degradations=("jpeg-12", "rain-50")))
    with pytest.raises(CheckpointError, match="trained with rain-50, which this version does not know"):
        Run("cifar10", replace(SMALL["cifar10"], restarts=restarts), data, CPU, Precision.FP32, (stranger, *teachers))


def few(data: TrainingData) -> TrainingData:
    return replace(data, train=replace(data.train, images=data.train.images[:20], labels=data.train.labels[:20]))


def test_less_than_a_batch_of_images_is_a_batch_whose_answers_are_remembered(
    data: TrainingData, tmp_path: Path
) -> None:
    config = replace(SMALL["cifar10-small-robust"], max_steps=None, degradations=())
    told = run("cifar10-small-robust", few(data), config)
    train(told, tmp_path)
    assert (told.steps_per_epoch, told.images_per_step) == (1, 20)
    heir = replace(config, teachers=("told",), inherit_answers=True, architecture="plain-cnn", start_from_teacher=False)
    student = Run("heir", heir, few(data), CPU, Precision.FP32, (load_teacher(tmp_path),))
    assert torch.equal(next_batch(student, torch.arange(20))[1], next_batch(told, torch.arange(20))[1])


def test_the_seconds_of_steps_are_those_of_the_images_they_took(data: TrainingData) -> None:
    for there, images in ((data, 75), (few(data), 20)):
        each = run("tutorial", there)
        each.history = [EpochRecord(1, 1.0, 0.5, images_per_second=10.0)]
        assert each.seconds == pytest.approx(each.steps_per_epoch * images / 10)


def test_other_data_is_refused_on_resuming(data: TrainingData, tmp_path: Path) -> None:
    train(run("tutorial", data, replace(SMALL["tutorial"], epochs=1)), tmp_path)
    fewer = replace(data, train=replace(data.train, images=data.train.images[:225], labels=data.train.labels[:225]))
    others = replace(data, train=replace(data.train, images=255 - data.train.images))
    for other in (fewer, others):
        with pytest.raises(CheckpointError, match="other data"):
            run("tutorial", other, replace(SMALL["tutorial"], epochs=1)).restore(checkpoints.load(tmp_path))


def test_a_checkpoint_that_does_not_know_its_data_goes_on(data: TrainingData, tmp_path: Path) -> None:
    train(run("tutorial", data, replace(SMALL["tutorial"], epochs=1)), tmp_path)
    older = replace(checkpoints.load(tmp_path), data=None)
    each = run("tutorial", data, replace(SMALL["tutorial"], epochs=1))
    each.restore(older)
    assert each.step == each.total_steps


def test_a_run_that_goes_on_elsewhere_tells_of_both(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = run("tutorial", data)
    begun.provenance = begun.provenance | {"command": "train tutorial", "device": "a CPU", "torch": "2.0"}
    checkpoints.save(begun.checkpoint(), tmp_path)
    monkeypatch.setattr("training.run.provenance", lambda *_: begun.provenance | {"device": "a GPU", "torch": "2.1"})
    for _ in range(2):  # the second goes on where the first was
        resumed = run("tutorial", data)
        resumed.restore(checkpoints.load(tmp_path))
        told = {"device": "a CPU, then a GPU", "torch": "2.0, then 2.1"}
        assert resumed.provenance == begun.provenance | told
        checkpoints.save(resumed.checkpoint(), tmp_path)


def test_what_a_run_and_its_teachers_learned_from_is_kept_when_it_is_resumed(
    data: TrainingData, tmp_path: Path
) -> None:
    teachers = tuple(replace(untrained_teacher(seed, data), learned_from=torch.tensor([seed, 7])) for seed in range(2))
    begun = Run("cifar10-plain", SMALL["cifar10-plain"], data, CPU, Precision.FP32, teachers)
    expected = sorted({0, 1, 7, *data.hashes.tolist()})
    assert begun.learned_from.tolist() == expected
    checkpoints.save(begun.checkpoint(), tmp_path)
    saved = checkpoints.load(tmp_path)
    assert all(teacher.learned_from is None for teacher in saved.teachers)
    resumed = Run("cifar10-plain", saved.config, data, CPU, Precision.FP32, saved.teachers)
    resumed.restore(saved)
    noted = resumed.checkpoint().learned_from
    assert noted is not None
    assert noted.tolist() == expected
    resumed.restore(replace(saved, learned_from=None))  # an older one


def test_teachers_of_images_of_another_size_are_refused(data: TrainingData) -> None:
    own, other = untrained_teacher(0, data), untrained_teacher(1, data, image_size=32)
    config = SMALL["cifar10-plain"]
    with pytest.raises(CheckpointError, match=r"know images of 32 pixels .* this run have 16; give it, or them,"):
        Run("cifar10-plain", config, data, CPU, Precision.FP32, (own, other))
    starts = replace(config, teachers=("a",), start_teaches=False)  # whose weights suit images of any size
    assert Run("cifar10-plain", starts, data, CPU, Precision.FP32, (other,)).ensemble is None


def test_weights_of_another_version_are_told(data: TrainingData) -> None:
    each = run("tutorial", data)
    saved = each.checkpoint()
    weights = {f"renamed.{name}": weight for name, weight in saved.model.items()}
    with pytest.raises(CheckpointError, match="The checkpoint was not made by this version of Convoy; use the version"):
        each.restore(replace(saved, model=weights))
