"""A recipe, trained anew with several seeds → how often it is right, by one view and by six: mean and deviation.

One run says little of a recipe: the seed alone moves it by a few tenths of a point.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from training import checkpoint as checkpoints
from training.checkpoint import Teacher
from training.data import Split, TrainingData
from training.device import Precision
from training.errors import CheckpointError
from training.loop import logits_of, train
from training.recipes import TrainConfig
from training.run import Run
from training.views import six_views


@dataclass(frozen=True)
class Trial:
    """One seed's network in torch, after its last step."""

    seed: int
    one_view: float
    six_views: float
    seconds: float  # of training steps alone

    def __str__(self) -> str:
        return (
            f"seed {self.seed}  one view {self.one_view:.2%}  six views {self.six_views:.2%}  in {self.seconds:,.1f} s"
        )


@dataclass(frozen=True)
class Trainer:
    """All that the runs of a recipe have in common."""

    recipe: str
    config: TrainConfig
    data: TrainingData
    device: torch.device
    precision: Precision
    teachers: tuple[Teacher, ...] = ()

    def finished(self, seed: int, folder: Path) -> Run:
        """The run of `seed`, trained to its end; one that `folder` holds already goes on, and a finished one is done.

        Raises `CheckpointError` when `folder` holds another run.
        """
        config = replace(self.config, seed=seed)
        run = Run(self.recipe, config, self.data, self.device, self.precision, self.teachers)
        if (folder / checkpoints.FILE_NAME).exists():
            saved = checkpoints.load(folder)
            if saved.config != config:
                raise CheckpointError(f"{folder} holds a run with other settings; move it, or choose another --runs.")
            if saved.precision != self.precision.value:
                raise CheckpointError(
                    f"{folder} holds a run in {saved.precision}; add --precision {saved.precision}, move it, or choose "
                    "another --runs."
                )
            run.restore(saved)
        train(run, folder)
        return run


def measured(trainer: Trainer, seeds: Sequence[int], runs: Path, split: Split) -> Iterator[Trial]:
    """Train every seed in a folder of its own below `runs` and measure it on `split`."""
    for seed in seeds:
        run = trainer.finished(seed, runs / f"{trainer.recipe}-{seed}")
        one = logits_of(run.model, split.images, run.device, run.precision)
        six = six_views(lambda images, run=run: logits_of(run.model, images, run.device, run.precision), split.images)  # type: ignore[misc]  # mypy infers no lambda with a default
        right, right_of_six = (float((logits.argmax(1) == split.labels).double().mean()) for logits in (one, six))
        yield Trial(seed, right, right_of_six, run.seconds)


def summary(trials: Sequence[Trial]) -> str:
    """Mean and standard deviation over seeds, each number of views by itself."""
    lines = []
    for name, values in (("one view", [t.one_view for t in trials]), ("six views", [t.six_views for t in trials])):
        deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
        lines.append(f"{name:10} {100 * statistics.mean(values):.2f}{deviation} % over {len(values)} seeds")
    seconds = statistics.mean(trial.seconds for trial in trials)
    lines.append(f"training   {seconds:,.1f} s on average, validation and checkpoints left out")
    return "\n".join(lines)
