"""The command line `convoy-train`: train | export | evaluate | calibrate | compare."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import Interrupted, TrainingError
from training.recipes import RECIPES

if TYPE_CHECKING:
    from service.metadata import Robustness
    from training.checkpoint import Teacher

STARTING = ("output", "teachers", "epochs", "seed", "max_steps")  # options that decide what a new run is


def main(arguments: list[str] | None = None) -> int:
    """Run one command; errors that the user can mend are one sentence on stderr and exit status 1."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush complains
        return 1
    except Interrupted as exc:
        print(exc, file=sys.stderr)
        return 130
    except TrainingError as exc:
        print(f"convoy-train: {exc}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="convoy-train", description="Train, export and evaluate image classifiers.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("train", help="train a network by a named recipe")
    command.add_argument("recipe", nargs="?", choices=sorted(RECIPES), default="cifar10")
    _add_data(command)
    command.add_argument("--output", type=Path, help="the run's folder (default: runs/RECIPE-SEED)")
    command.add_argument("--resume", type=Path, metavar="RUN", help="go on with the run in this folder")
    command.add_argument(
        "--teachers",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="finished runs to learn from (default: runs/RECIPE-0 each)",
    )
    command.add_argument("--epochs", type=_positive, help="instead of the recipe's")
    command.add_argument("--seed", type=int, help="instead of the recipe's")
    command.add_argument("--max-steps", type=_positive, help="end after so many optimiser steps")
    command.add_argument(
        "--time-budget", type=_positive, metavar="MINUTES", help="stop then, with a checkpoint to resume from"
    )
    command.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    command.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    command.set_defaults(run=_train)

    command = commands.add_parser("export", help="export a finished run to the model repository")
    command.add_argument("checkpoint", type=Path, metavar="RUN", help="the run's folder")
    command.add_argument("model", type=Path, metavar="models/NAME/VERSION", help="the folder to make")
    _add_data(command)
    command.add_argument("--description", default="", help="first paragraph of the model card")
    command.add_argument("--note", action="append", default=[], help="a line for the model card; may be repeated")
    command.set_defaults(run=_export)

    command = commands.add_parser("evaluate", help="measure an exported model on the 10,000 test images")
    command.add_argument("model", type=Path, metavar="models/NAME/VERSION", help="the model's folder")
    _add_data(command)
    command.add_argument(
        "--split", choices=("test", "validation"), default="test", help="validation, to try things out"
    )
    command.add_argument(
        "--suite",
        choices=("clean", "full"),
        default="clean",
        help="full: on damaged images too, which takes 77 × as long",
    )
    command.add_argument("--record", action="store_true", help="write the result into the model's metadata and card")
    command.set_defaults(run=_evaluate)

    command = commands.add_parser("calibrate", help="give an exported model the thresholds of prediction sets")
    command.add_argument("model", type=Path, metavar="models/NAME/VERSION", help="the model's folder")
    _add_data(command)
    command.set_defaults(run=_calibrate)

    command = commands.add_parser("compare", help="plot the models' accuracy and arithmetic beside published networks")
    command.add_argument("models", type=Path, nargs="?", default=Path("models"), help="the model repository")
    command.set_defaults(run=_compare)
    return top


def _train(options: argparse.Namespace) -> None:
    from training import checkpoint, data, device, loop  # torch takes a second to import: not for --help

    chosen_device = device.choose_device(options.device)
    precision = device.choose_precision(options.precision, chosen_device)
    if options.resume:
        given = [name for name in STARTING if getattr(options, name) is not None]
        if given:
            raise TrainingError(
                f"--resume goes on with a run as it was started; leave out --{given[0].replace('_', '-')}."
            )
        saved = checkpoint.load(options.resume)
        recipe, config, folder, teachers = saved.recipe, saved.config, options.resume, saved.teachers
    else:
        recipe = options.recipe
        config = loop.with_overrides(
            RECIPES[recipe], epochs=options.epochs, seed=options.seed, max_steps=options.max_steps
        )
        folder = options.output or Path("runs") / f"{recipe}-{config.seed}"
        if (folder / checkpoint.FILE_NAME).exists():
            raise TrainingError(
                f"{folder} holds a run already; go on with --resume {folder}, or choose another --output."
            )
        teachers = _load_teachers(recipe, options.teachers)
    training_data = data.load_training_data(data.find_data(options.data))
    run = loop.Run(recipe, config, training_data, chosen_device, precision, teachers)
    if options.resume:
        run.restore(saved)
    print(
        f"{recipe}: {run.total_steps:,} steps on {chosen_device.type} in {precision.value}, into {folder}",
        flush=True,
    )
    loop.train(run, folder, math.inf if options.time_budget is None else 60 * options.time_budget)
    print(f"Trained: {folder}. Next: convoy-train export {folder} models/NAME/VERSION")


def _load_teachers(recipe: str, folders: list[Path] | None) -> tuple[Teacher, ...]:
    from training import checkpoint

    if folders is None:
        folders = [Path("runs") / f"{teacher}-0" for teacher in RECIPES[recipe].teachers]
        for folder, teacher in zip(folders, RECIPES[recipe].teachers, strict=True):
            if not (folder / checkpoint.FILE_NAME).exists():
                raise TrainingError(
                    f"Recipe {recipe} learns from a finished run of {teacher}, and there is none in {folder}; make it "
                    f"with: convoy-train train {teacher}, or name others with --teachers."
                )
    return tuple(checkpoint.load_teacher(folder) for folder in folders)


def _export(options: argparse.Namespace) -> None:
    from training import data, report
    from training.export import export

    training_data = data.load_training_data(data.find_data(options.data))
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
        f"{metadata.calibration.temperature:.3f}. Next: convoy-train evaluate {options.model} --record"
    )


def _evaluate(options: argparse.Namespace) -> None:
    from training import data, evaluate, report

    found = data.find_data(options.data)
    evaluations = evaluate.evaluate_model(options.model, found, options.split)
    print("\n\n".join(report.table(evaluation) for evaluation in evaluations), flush=True)
    robustness: tuple[Robustness, ...] = ()
    if options.suite == "full":
        robustness = evaluate.evaluate_robustness(options.model, found, options.split)
        print("", *(report.robustness_table(each) for each in robustness), sep="\n\n")
    if options.record:
        evaluate.record(options.model, evaluations, robustness)


def _calibrate(options: argparse.Namespace) -> None:
    from training import data, evaluate, report

    evaluations = evaluate.fit_thresholds(options.model, data.find_data(options.data))
    print("\n\n".join(report.table(evaluation) for evaluation in evaluations))


def _compare(options: argparse.Namespace) -> None:
    from training import plots

    networks = plots.shipped(options.models)
    if not networks:
        raise TrainingError(
            f"No model in {options.models} was measured on the test images; evaluate one with --record."
        )
    target = options.models / plots.ACCURACY
    target.write_text(plots.accuracy_svg(networks), encoding="utf-8")
    for network in networks:
        print(f"{network.name:24} {network.accuracy:.2%} at {network.macs:.1f} million multiply-accumulates")
    print(f"Plotted: {target}")


def _add_data(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, help="CIFAR-10 folder or tar.gz (default: CONVOY_DATA, else downloaded)")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
