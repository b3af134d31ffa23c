"""What each command of `convoy-train` does; `training.__main__` has their grammar. Raises `TrainingError`."""

from __future__ import annotations

import argparse
import math
import shlex
from pathlib import Path

from training.errors import Interrupted, TrainingError
from training.recipes import RECIPES


def train(options: argparse.Namespace) -> None:
    """Start a run, or go on with one."""
    from training import data, device, loop, plan  # torch takes a second to import: not for --help
    from training.run import Run

    chosen, planned = device.choose_device(options.device), plan.plan(options)
    precision = planned.precision(options.precision, chosen)
    size = planned.config.image_size
    training_data = data.load_training_data(data.find_data(options.data, size), size)
    print(training_data, flush=True)
    run = Run(planned.recipe, planned.config, training_data, chosen, precision, planned.teachers)
    if planned.saved:
        run.restore(planned.saved)
    else:
        training_data.check_held_out(
            run.learned_from,
            "this run, or a teacher of it, learns from",
            "keep one of each picture, or name teachers that have not seen them",
        )
        run.provenance["command"] = planned.command(options, training_data)
    where = f"on {chosen.type} in {precision.value}"
    print(f"{run.recipe}: {run.total_steps:,} steps {where}, into {planned.folder}", flush=True)
    try:
        loop.train(run, planned.folder, math.inf if options.time_budget is None else 60 * options.time_budget)
    except Interrupted as exc:
        there = () if options.device == "auto" else ("--device", options.device)
        again = _command(options, "train", "--resume", planned.folder, *there)
        raise Interrupted(f"{exc}; go on with: {again}") from exc
    print(f"Trained: {planned.folder}. Next: {_command(options, 'export', planned.folder, 'models/NAME/VERSION')}")


def _command(options: argparse.Namespace, *words: str | Path) -> str:
    """What to type next, for the same data."""
    data = ["--data", options.data] if options.data else []
    return shlex.join(["convoy-train", *map(str, [*words, *data])])


def trials(options: argparse.Namespace) -> None:
    """Train a recipe with several seeds, and say how good it is."""
    from training import data, device, evaluate, plan
    from training import trials as recipes_trials

    chosen, size = device.choose_device(options.device), RECIPES[options.recipe].image_size
    found = data.find_data(options.data, size)
    training_data, runs = data.load_training_data(found, size), options.runs
    if options.split == "test":  # nothing more is to be chosen: learn from all there is, as published numbers do
        training_data, runs = training_data.whole(), runs / "whole"
    trainer = recipes_trials.Trainer(
        options.recipe,
        RECIPES[options.recipe],
        training_data,
        chosen,
        device.choose_precision(options.precision, chosen),
        plan.load_teachers(options.recipe, None),
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

    config = RECIPES[options.recipe]
    if config.teachers:
        raise TrainingError(f"Recipe {options.recipe} has teachers, which no ordinary loop has; choose another recipe.")
    found = data.find_data(options.data, config.image_size)
    recipe, ordinary = (
        benchmark.Side(steps, config, found, options.device, options.precision)
        for steps in (benchmark.recipe_steps, benchmark.ordinary_steps)
    )
    print(benchmark.table(benchmark.images_per_second(recipe, ordinary, options.rounds, options.images)))


def export(options: argparse.Namespace) -> None:
    """A finished run → a version in the model repository."""
    from training import data, report
    from training.export import export, exportable

    run = exportable(options.checkpoint, options.model)
    size = run.config.image_size
    training_data = data.load_training_data(data.find_data(options.data, size, run.labels), size)
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


def import_network(options: argparse.Namespace) -> None:
    """Somebody else's network → a version in the model repository."""
    from training import data, report
    from training.foreign import graph, importing, source, wrapping
    from training.repository import check_target

    check_target(options.model)  # before anything is read
    labels = source.read_labels(options.labels)
    normalisation = wrapping.Normalisation(tuple(options.mean), tuple(options.std))
    network = graph.read(options.network, options.size)
    given = source.Source(options.network, network, labels, normalisation, options.labels.name)
    pictures = data.load_training_data(options.data, given.size) if options.data else None
    metadata = importing.import_network(
        given, options.model, pictures, description=options.description, notes=tuple(options.note)
    )
    for evaluation in metadata.evaluations:
        print(report.table(evaluation), end="\n\n")
    for note in metadata.notes[len(options.note) :]:
        print(note)
    repository = options.model.parent.parent
    there = [] if repository.resolve() == Path("models").resolve() else ["--models-dir", str(repository)]
    print(
        f"Imported {options.model}: {metadata.input.width} × {metadata.input.height} pixels, {len(labels):,} classes, "
        f"{metadata.macs / 1e6:,.1f} million multiply-accumulates. "
        f"Next: {shlex.join(['convoy', 'serve', *there, '--default-model', metadata.name])}"
    )


def evaluate(options: argparse.Namespace) -> None:
    """Measure an exported model."""
    from training import data, evaluate, report, repository

    metadata = repository.read_model(options.model)
    found = data.find_data(options.data, metadata.input.height, metadata.labels)
    if options.record:
        evaluate.check_same_data(metadata, found)
    evaluations = evaluate.evaluate_model(options.model, found, options.split)
    if options.record:  # before it is shown: who reads may be gone
        evaluate.record(options.model, evaluations)
    print("\n\n".join(report.table(evaluation) for evaluation in evaluations), flush=True)
    if options.six_views:
        for precision, accuracy in evaluate.six_view_accuracy(options.model, found, options.split).items():
            print(f"\nby six views   {accuracy:.2%} accuracy ({precision} ONNX file; the service answers by one)")
    if options.suite == "full":
        robustness = evaluate.evaluate_robustness(options.model, found, options.split)
        if options.record:
            evaluate.record(options.model, (), robustness)
        seen = report.seen_in_training(metadata)
        print(*(f"\n{report.robustness_table(each, seen)}" for each in robustness), sep="\n")


def calibrate(options: argparse.Namespace) -> None:
    """Give an exported model thresholds."""
    from training import data, evaluate, report, repository

    metadata = repository.read_model(options.model)
    found = data.find_data(options.data, metadata.input.height, metadata.labels)
    evaluations = evaluate.fit_thresholds(options.model, found)
    print("\n\n".join(report.table(evaluation) for evaluation in evaluations))
    print(
        "\nThe sets are recorded as they were on the validation images, on those of the test not yet. "
        f"Next: {_command(options, 'evaluate', options.model, '--record')}"
    )


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
        outside = "" if plots.in_frame(network) else ", outside the plot"
        print(f"{network.name:24} {network.accuracy:.2%} at {network.macs:.1f} million multiply-accumulates{outside}")
    print(f"Plotted: {target}")
