"""Everything that resuming needs ↔ one file, written atomically: a crash leaves the old file or the new one.

What can't be written or read, or belongs to another process, raises `CheckpointError`.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from torch import Tensor

from training.architectures import ARCHITECTURES, Network
from training.errors import CheckpointError, TrainingError, is_lack_of_memory
from training.recipes import TrainConfig

FILE_NAME = "checkpoint.pt"


@dataclass(frozen=True)
class EpochRecord:
    """What one finished epoch showed."""

    epoch: int
    loss: float
    validation_accuracy: float | None  # None when it learns from the validation images too
    images_per_second: float


@dataclass(frozen=True)
class Teacher:
    """What a finished run leaves to those that learn from it."""

    recipe: str
    config: TrainConfig
    labels: tuple[str, ...]
    model: dict[str, Tensor]
    provenance: dict[str, str]
    answers: Tensor | None = None  # what its own teachers said to it, where its student is to learn that
    learned_from: Tensor | None = None  # as in `Checkpoint`, until its student's run has noted it
    data: str | None = None  # as in `Checkpoint`: what its answers are about


@dataclass(frozen=True)
class Checkpoint:
    """A run after `step` optimiser steps. Random numbers need no state: they are a function of seed and step."""

    recipe: str
    config: TrainConfig
    labels: tuple[str, ...]
    step: int
    total_steps: int
    epoch_loss: float  # summed over the steps of the unfinished epoch
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    lookahead: list[Tensor] | None
    grad_scaler: dict[str, Any]
    history: tuple[EpochRecord, ...]
    provenance: dict[str, str]
    teachers: tuple[Teacher, ...] = ()  # whole, so that resuming needs nothing but this file
    answers: Tensor | None = None  # what the teachers have said so far, see `training.distill.Memory`
    kept: tuple[dict[str, Tensor], ...] = ()  # weights at the ends of lr schedules, until they are averaged
    data: str | None = None  # `TrainingData.fingerprint`; older runs have none
    learned_from: Tensor | None = None  # `TrainingData.hashes`, and those of its teachers; older runs have none

    @property
    def finished(self) -> bool:
        """Whether the run has done all its steps."""
        return self.step == self.total_steps

    @property
    def precision(self) -> str:
        """The number format of its last step, as `provenance` says."""
        return self.provenance["precision"].rpartition(" ")[2]

    @property
    def held_nothing_back(self) -> bool:
        """Whether it has learned from the validation images too."""
        return any(record.validation_accuracy is None for record in self.history)


def save(checkpoint: Checkpoint, run: Path) -> None:
    """Write `checkpoint` into the folder `run`; raises `CheckpointError` when the disk refuses."""
    state = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
    state["config"] = dataclasses.asdict(checkpoint.config)
    state["history"] = [dataclasses.asdict(record) for record in checkpoint.history]
    state["teachers"] = [dataclasses.asdict(teacher) for teacher in checkpoint.teachers]
    partial = run / (FILE_NAME + ".partial")
    try:
        run.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(run / FILE_NAME)
    except (OSError, RuntimeError) as exc:  # torch makes the latter of the former
        cause = exc if isinstance(exc, OSError) else exc.__context__
        reason = cause.strerror if isinstance(cause, OSError) else exc
        raise CheckpointError(f"The checkpoint in {run} can't be written: {reason}.") from exc
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Within it this process alone trains into the folder `run`, which is made, and has been proven writable."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=run) as proof:
            proof.write(bytes(4096))
        folder = os.open(run, os.O_RDONLY)
    except OSError as exc:
        raise CheckpointError(f"Nothing can be written into {run}: {exc.strerror}; choose another folder.") from exc
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise CheckpointError(
                f"Another process is training into {run}; wait for its end, or choose another folder."
            ) from exc
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(folder)


def check_newest(run: Path, step: int) -> None:
    """Raise `CheckpointError` when what is in the claimed folder `run` is further on than `step`."""
    if (run / FILE_NAME).exists() and (found := load(run).step) > step:
        raise CheckpointError(
            f"Another process has meanwhile trained {run} to step {found:,}; go on from there with: {_resuming(run)}"
        )


def _resuming(run: Path) -> str:
    """What goes on with `run`, which does not know where its data lies; without any, CIFAR-10 would be downloaded."""
    return f"{shlex.join(['convoy-train', 'train', '--resume', str(run)])}, and the --data that it began with, if any"


def load(run: Path) -> Checkpoint:
    """Read the checkpoint in the folder `run`; raises `CheckpointError` when none is there that can be read."""
    path = run / FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint in {run}; train into that folder first.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # never runs code, and needs no GPU
    except OSError as exc:
        raise CheckpointError(f"{path} can't be read: {exc.strerror}.") from exc
    except Exception as exc:  # torch raises nearly anything on damaged files
        if is_lack_of_memory(exc):
            raise CheckpointError(
                f"{path} does not fit into the memory that is free; free some, or use a machine that has more."
            ) from exc
        raise CheckpointError(
            f"{path} is damaged, or no checkpoint; restore it from a copy, or train into another folder."
        ) from exc
    with of_this_version(str(path)):
        return _from_state(state)


def _from_state(state: dict[str, Any]) -> Checkpoint:
    config = TrainConfig(**state["config"])
    if config.architecture not in ARCHITECTURES:
        raise KeyError(config.architecture)
    history = tuple(EpochRecord(**record) for record in state["history"])
    teachers = tuple(
        Teacher(**{**teacher, "config": TrainConfig(**teacher["config"])}) for teacher in state.get("teachers", ())
    )
    return Checkpoint(**{**state, "config": config, "history": history, "teachers": teachers})


@contextmanager
def of_this_version(name: str) -> Iterator[None]:
    """What does not fit the program as it is now, as `CheckpointError`: the file may be as sound as can be."""
    try:
        yield
    except Exception as exc:  # of whatever has another name, type or shape
        if isinstance(exc, TrainingError) or is_lack_of_memory(exc):
            raise
        raise CheckpointError(
            f"{name} was not made by this version of Convoy; use the version that made it, or train anew into another "
            "folder."
        ) from exc


def load_finished(run: Path) -> Checkpoint:
    """Read the checkpoint of a run that has done all its steps; raises `CheckpointError` when it has not."""
    saved = load(run)
    if not saved.finished:
        raise CheckpointError(
            f"{run} has done {saved.step:,} of {saved.total_steps:,} steps; finish it with: {_resuming(run)}"
        )
    return saved


def load_teacher(run: Path) -> Teacher:
    """The finished run in the folder `run` as a teacher; raises `CheckpointError` when it is none.

    One that held nothing back is none: its students would know the validation images from it.
    """
    saved = load_finished(run)
    if saved.held_nothing_back:
        raise CheckpointError(
            f"{run} has learned from the validation images too, and what begins with it or learns from it could be "
            "measured and calibrated on nothing; name a run of convoy-train train."
        )
    answers = saved.teachers[-1].answers if saved.config.inherit_answers else saved.answers
    return Teacher(
        saved.recipe,
        saved.config,
        saved.labels,
        saved.model,
        saved.provenance,
        answers=answers,
        learned_from=saved.learned_from,
        data=saved.data,
    )


def network_of(saved: Checkpoint | Teacher) -> Network:
    """The trained network, in eval mode on the CPU."""
    with of_this_version(f"The network of a run of {saved.recipe}"):
        network = ARCHITECTURES[saved.config.architecture](len(saved.labels), size=saved.config.image_size)
        network.load_state_dict(saved.model)
    return network.eval()
