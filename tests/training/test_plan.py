"""What a run is to be, from what was asked for."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import CPU, run, small
from training import checkpoint
from training.__main__ import parser
from training.data import load_training_data
from training.device import Precision
from training.errors import CheckpointError, TrainingError
from training.loop import train
from training.plan import Plan, plan
from training.recipes import RECIPES


def options(*arguments: str) -> argparse.Namespace:
    return parser().parse_args(["train", *arguments])


def test_a_new_run_is_the_recipe_with_what_was_asked_for(tmp_path: Path) -> None:
    planned = plan(options("tutorial", "--seed", "3", "--output", str(tmp_path / "run"), "--epochs", "2"))
    assert (planned.recipe, planned.config.seed, planned.config.epochs) == ("tutorial", 3, 2)
    assert planned.folder == tmp_path / "run"
    assert planned.saved is None
    assert plan(options("tutorial", "--seed", "3")).folder == Path("runs/tutorial-3")


def test_the_command_is_recorded_as_it_was_typed_but_for_this_machines_folders(
    generated_data: Path, tmp_path: Path
) -> None:
    typed = options("tutorial", "--seed", "3", "--output", "my runs/first", "--teachers", "a", str(tmp_path / "b"))
    data, planned = load_training_data(generated_data), Plan("tutorial", RECIPES["tutorial"], (), Path("run"))
    command = "convoy-train train tutorial --output 'my runs/first' --teachers a b --seed 3"
    assert planned.command(typed, data) == command
    assert planned.command(typed, replace(data, option=("--data", "pets"))) == f"{command} --data pets"


def test_a_recipe_or_a_run_must_be_named() -> None:
    with pytest.raises(TrainingError, match=r"Name the recipe to train by, one of cifar10, .*, or a run to --resume\."):
        plan(options())


def test_a_run_goes_on_by_its_own_recipe(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="by its own recipe; leave out tutorial"):
        plan(options("tutorial", "--resume", str(tmp_path)))


@pytest.mark.parametrize(
    "gone", [{"optimizer": "x"}, {"lr_schedule": "x"}, {"augmentations": ("mixup", "x")}, {"degradations": ("x",)}]
)
def test_a_run_begun_with_what_is_gone_does_not_go_on(
    gone: dict[str, Any], generated_data: Path, tmp_path: Path
) -> None:
    saved = run("tutorial", load_training_data(generated_data)).checkpoint()
    checkpoint.save(replace(saved, config=replace(saved.config, **gone)), tmp_path)
    with pytest.raises(CheckpointError, match="was begun with x, which this version of Convoy does not know; use the"):
        plan(options("--resume", str(tmp_path)))


@pytest.mark.parametrize("began", list(Precision))
def test_a_run_goes_on_in_the_number_format_it_began_in(began: Precision, generated_data: Path, tmp_path: Path) -> None:
    each = run("tutorial", load_training_data(generated_data))
    each.provenance["precision"] = began.value
    checkpoint.save(each.checkpoint(), tmp_path)
    planned = plan(options("--resume", str(tmp_path)))
    if began is Precision.FP16:
        with pytest.raises(TrainingError, match="fp16 training needs CUDA"):
            planned.precision("auto", CPU)
    else:
        assert planned.precision("auto", CPU) is began
    assert planned.precision("fp32", CPU) is Precision.FP32


def test_another_format_is_recorded_and_is_the_one_to_go_on_in(generated_data: Path, tmp_path: Path) -> None:
    data = load_training_data(generated_data)
    checkpoint.save(run("tutorial", data).checkpoint(), tmp_path)
    other = run("tutorial", data, precision=Precision.BF16)
    other.restore(checkpoint.load(tmp_path))
    checkpoint.save(other.checkpoint(), tmp_path)
    saved = checkpoint.load(tmp_path)
    assert saved.provenance["precision"] == "fp32, then bf16"
    assert plan(options("--resume", str(tmp_path))).precision("auto", CPU) is Precision.BF16
    again = run("tutorial", data, precision=Precision.BF16)
    again.restore(saved)
    assert again.provenance["precision"] == "fp32, then bf16"


def test_a_run_without_loss_scaling_goes_on_with_it(generated_data: Path, tmp_path: Path) -> None:
    data = load_training_data(generated_data)
    checkpoint.save(run("tutorial", data).checkpoint(), tmp_path)
    scaled = run("tutorial", data)
    scaled.scaler = torch.amp.GradScaler("cpu")  # as on a GPU in fp16
    scaled.restore(checkpoint.load(tmp_path))
    assert scaled.scaler.is_enabled()


@pytest.mark.usefixtures("narrow_networks")
def test_a_run_that_held_nothing_back_teaches_nobody(generated_data: Path, tmp_path: Path) -> None:
    train(run("cifar10-teacher-44", small(load_training_data(generated_data)).whole()), tmp_path)
    for word in ("--teachers", "--start"):
        with pytest.raises(TrainingError, match="learned from the validation images too"):
            plan(options("tutorial", word, str(tmp_path)))
