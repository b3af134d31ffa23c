"""What each command of `convoy-train` does; `training.__main__` has their grammar. Raises `TrainingError`."""

from __future__ import annotations

import argparse
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import Interrupted, TrainingError
from training.recipes import RECIPES, TrainConfig, with_overrides

if TYPE_CHECKING:  # torch takes a second to import: not for --help
    from service.metadata import Robustness
    from training.checkpoint import Checkpoint, Teacher

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


def train(options: argparse.Namespace) -> None:
    """Start a run, or go on with one."""
    from training import data, device, loop  # torch takes a second to import: not for --help
    from training.run import Run

    chosen = device.choose_device(options.device)
    precision = device.choose_precision(options.precision, chosen)
    plan = _to_resume(options) if options.resume else _to_begin(options)
    training_data = data.load_training_data(data.find_data(options.data), plan.config.image_size)
    print(training_data, flush=True)
    run = Run(plan.recipe, plan.config, training_data, chosen, precision, plan.teachers)
    if plan.saved:
        run.restore(plan.saved)
    on = f"on {chosen.type} in {precision.value}"
    print(f"{run.recipe}: {run.total_steps:,} steps {on}, into {plan.folder}", flush=True)
    try:
        loop.train(run, plan.folder, math.inf if options.time_budget is None else 60 * options.time_budget)
    except Interrupted as exc:
        raise Interrupted(f"{exc}; go on with: {_command(options, 'train', '--resume', plan.folder)}") from exc
    print(f"Trained: {plan.folder}. Next: {_command(options, 'export', plan.folder, 'models/NAME/VERSION')}")


def _to_resume(options: argparse.Namespace) -> Plan:
    from training import checkpoint

    if given := [name for name in STARTING if getattr(options, name) is not None]:
        raise TrainingError(f"--resume goes on with a run as it was started; leave out --{given[0].replace('_', '-')}.")
    saved = checkpoint.load(options.resume)
    return Plan(saved.recipe, saved.config, saved.teachers, options.resume, saved)


def _to_begin(options: argparse.Namespace) -> Plan:
    from training import checkpoint

    recipe = options.recipe
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
    return Plan(recipe, config, start + _load_teachers(recipe, options.teachers), folder)


def _command(options: argparse.Namespace, *words: str | Path) -> str:
    """What to type next, for the same data."""
    data = ["--data", options.data] if options.data else []
    return shlex.join(["convoy-train", *map(str, [*words, *data])])


def _load_teachers(recipe: str, folders: list[Path] | None) -> tuple[Teacher, ...]:
    from training import checkpoint

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
    from training import checkpoint, exported

    return exported.load_exported(folder) if exported.is_exported(folder) else checkpoint.load_teacher(folder)


def trials(options: argparse.Namespace) -> None:
    """Train a recipe with several seeds, and say how good it is."""
    from training import data, device, evaluate
    from training import trials as recipes_trials

    chosen, found = device.choose_device(options.device), data.find_data(options.data)
    size = RECIPES[options.recipe].image_size
    training_data, runs = data.load_training_data(found, size), options.runs
    if options.split == "test":  # nothing more is to be chosen: learn from all there is, as published numbers do
        training_data, runs = training_data.whole(), runs / "whole"
    trainer = recipes_trials.Trainer(
        options.recipe,
        RECIPES[options.recipe],
        training_data,
        chosen,
        device.choose_precision(options.precision, chosen),
        _load_teachers(options.recipe, None),
    )
    split, done = evaluate.labelled_images(found, options.split, size), []
    try:
        for trial in recipes_trials.measured(trainer, range(options.seeds), runs, split):
            print(trial, flush=True)
            done.append(trial)
    except Interrupted as exc:
        raise Interrupted(f"{exc}; the same command goes on.") from exc
    print(f"{options.recipe} on {len(split):,} images of the {options.split} split, last step, the network in torch:")
    print(recipes_trials.summary(done))


def speed(options: argparse.Namespace) -> None:
    """Measure a recipe's steps and those of an ordinary loop."""
    from training import data
    from training import speed as benchmark

    config, found = RECIPES[options.recipe], data.find_data(options.data)
    if config.teachers:
        raise TrainingError(f"Recipe {options.recipe} has teachers, which no ordinary loop has; choose another recipe.")
    recipe, ordinary = (
        benchmark.Side(steps, config, found, options.device, options.precision)
        for steps in (benchmark.recipe_steps, benchmark.ordinary_steps)
    )
    print(benchmark.table(benchmark.images_per_second(recipe, ordinary, options.rounds, options.images)))


def export(options: argparse.Namespace) -> None:
    """A finished run → a version in the model repository."""
    from training import data, report
    from training.export import export, exportable

    size = exportable(options.checkpoint, options.model).config.image_size
    training_data = data.load_training_data(data.find_data(options.data), size)
    metadata = export(
        options.checkpoint,
        options.model,
        training_data,
        description=options.description,
        notes=tuple(options.note),
    )
    for evaluation in metadata.evaluations:
        print(report.table(evaluation), end="\n\n")
    print(
        f"Exported {options.model}: {metadata.macs / 1e6:.1f} million multiply-accumulates, temperature "
        f"{metadata.calibration.temperature:.3f}, exponent {metadata.calibration.exponent:.3f}. "
        f"Next: {_command(options, 'evaluate', options.model, '--record')}"
    )


def evaluate(options: argparse.Namespace) -> None:
    """Measure an exported model."""
    from training import data, evaluate, report

    found = data.find_data(options.data)
    evaluations = evaluate.evaluate_model(options.model, found, options.split)
    print("\n\n".join(report.table(evaluation) for evaluation in evaluations), flush=True)
    if options.six_views:
        for precision, accuracy in evaluate.six_view_accuracy(options.model, found, options.split).items():
            print(f"\nby six views   {accuracy:.2%} accuracy ({precision} ONNX file; the service answers by one)")
    robustness: tuple[Robustness, ...] = ()
    if options.suite == "full":
        robustness = evaluate.evaluate_robustness(options.model, found, options.split)
        seen = report.seen_in_training(evaluate.read_model(options.model))
        print("", *(report.robustness_table(each, seen) for each in robustness), sep="\n\n")
    if options.record:
        evaluate.record(options.model, evaluations, robustness)


def calibrate(options: argparse.Namespace) -> None:
    """Give an exported model thresholds."""
    from training import data, evaluate, report

    evaluations = evaluate.fit_thresholds(options.model, data.find_data(options.data))
    print("\n\n".join(report.table(evaluation) for evaluation in evaluations))


def compare(options: argparse.Namespace) -> None:
    """Plot the shipped models."""
    from training import plots

    networks = plots.shipped(options.models)
    if not networks:
        raise TrainingError(
            f"No model in {options.models} was measured on CIFAR-10's test images; evaluate one with --record."
        )
    target = options.models / plots.ACCURACY
    target.write_text(plots.accuracy_svg(networks), encoding="utf-8")
    for network in networks:
        print(f"{network.name:24} {network.accuracy:.2%} at {network.macs:.1f} million multiply-accumulates")
    print(f"Plotted: {target}")
