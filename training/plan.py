"""What `convoy-train train` asks for → what the run is to be: a new one by a recipe, or one to go on with."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path

import torch

from training import checkpoint, device, exported
from training.augment import AUGMENTATIONS
from training.checkpoint import Checkpoint, Teacher
from training.data import TrainingData
from training.degrade import DEGRADATIONS
from training.device import Precision
from training.errors import CheckpointError, TrainingError
from training.optim import LR_SCHEDULES, OPTIMIZERS
from training.provenance import recorded
from training.recipes import RECIPES, TrainConfig, with_overrides

# options that decide what a new run is
STARTING = ("output", "teachers", "start", "epochs", "size", "seed", "max_steps")


@dataclass(frozen=True)
class Plan:
    """What a run is to be."""

    recipe: str
    config: TrainConfig
    teachers: tuple[Teacher, ...]
    folder: Path
    saved: Checkpoint | None = None  # what it goes on from

    def command(self, options: argparse.Namespace, data: TrainingData) -> str:
        """What a new run was asked for with, for others to read."""
        words = ["convoy-train", "train", self.recipe]
        for name in STARTING:
            if (given := getattr(options, name)) is not None:
                each = given if isinstance(given, list) else [given]
                shown = (recorded(value) if isinstance(value, Path) else str(value) for value in each)
                words += [f"--{name.replace('_', '-')}", *shown]
        return shlex.join([*words, *data.option])

    def precision(self, name: str, chosen: torch.device) -> Precision:
        """Where `name` leaves the choice, that which the run began in; raises `TrainingError` if `chosen` lacks it."""
        return device.choose_precision(self.saved.precision if self.saved and name == "auto" else name, chosen)


def plan(options: argparse.Namespace) -> Plan:
    """The run that is asked for.

    Raises `TrainingError` for options that do not fit together, `CheckpointError` for runs that are not there.
    """
    return _to_resume(options) if options.resume else _to_begin(options)


def _to_resume(options: argparse.Namespace) -> Plan:
    if options.recipe is not None:
        raise TrainingError(f"--resume goes on with a run by its own recipe; leave out {options.recipe}.")
    if given := [name for name in STARTING if getattr(options, name) is not None]:
        raise TrainingError(f"--resume goes on with a run as it was started; leave out --{given[0].replace('_', '-')}.")
    saved = checkpoint.load(options.resume)
    _check_names(saved.config, options.resume)
    return Plan(saved.recipe, saved.config, saved.teachers, options.resume, saved)


def _check_names(config: TrainConfig, folder: Path) -> None:
    """Raise `CheckpointError` where the run in `folder` was begun with what has another name now, or is gone."""
    unknown = (
        {config.optimizer} - OPTIMIZERS.keys()
        | {config.lr_schedule} - LR_SCHEDULES.keys()
        | {*config.augmentations} - AUGMENTATIONS.keys()
        | {*config.degradations} - DEGRADATIONS.keys()
    )
    if unknown:
        raise CheckpointError(
            f"{folder} was begun with {', '.join(sorted(unknown))}, which this version of Convoy does not know; use "
            "the version that began it, or train anew into another folder."
        )


def _to_begin(options: argparse.Namespace) -> Plan:
    recipe = options.recipe
    if recipe is None:
        raise TrainingError(f"Name the recipe to train by, one of {', '.join(RECIPES)}, or a run to --resume.")
    if options.start and RECIPES[recipe].start_from_teacher:
        raise TrainingError(f"Recipe {recipe} has a start of its own, its first teacher; leave out --start.")
    start = (_load_teacher(options.start),) if options.start else ()
    config = with_overrides(
        RECIPES[recipe],
        epochs=options.epochs,
        image_size=options.size,
        seed=options.seed,
        max_steps=options.max_steps,
        start=start[0].recipe if start else None,
    )
    folder = options.output or Path("runs") / f"{recipe}-{config.seed}"
    if (folder / checkpoint.FILE_NAME).exists():
        raise TrainingError(f"{folder} holds a run already; go on with --resume {folder}, or choose another --output.")
    return Plan(recipe, config, start + load_teachers(recipe, options.teachers), folder)


def load_teachers(recipe: str, folders: list[Path] | None) -> tuple[Teacher, ...]:
    """Those in `folders`, or else where finished runs of the teachers of `recipe` are; raises `TrainingError`."""
    if folders is None:
        wanted = RECIPES[recipe].teachers
        seeds = [wanted[:place].count(teacher) for place, teacher in enumerate(wanted)]
        folders = [Path("runs") / f"{teacher}-{seed}" for teacher, seed in zip(wanted, seeds, strict=True)]
        for folder, teacher, seed in zip(folders, wanted, seeds, strict=True):
            if not (folder / checkpoint.FILE_NAME).exists():
                raise TrainingError(
                    f"Recipe {recipe} learns from a finished run of {teacher}, and there is none in {folder}; make it "
                    f"with: convoy-train train {teacher}{f' --seed {seed}' if seed else ''}, or name others with "
                    "--teachers."
                )
    return tuple(map(_load_teacher, folders))


def _load_teacher(folder: Path) -> Teacher:
    return exported.load_exported(folder) if exported.is_exported(folder) else checkpoint.load_teacher(folder)
