"""The command line `convoy-train`: train | trials | speed | export | import | evaluate | calibrate | compare."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Literal

from training import arguments, command
from training.errors import Interrupted, TrainingError, is_lack_of_memory
from training.process import orderly_end
from training.recipes import RECIPES
from training.streams import finish_streams, open_streams, tell


def main(given: list[str] | None = None) -> int:
    """Run one command; errors that the user can mend are one sentence on stderr and exit status 1, Ctrl-C is 130."""
    open_streams()
    try:
        with orderly_end():
            _run(sys.argv[1:] if given is None else given)
    except BrokenPipeError:  # `| head` has read enough
        return 1
    except Interrupted as exc:
        tell(str(exc))
        return 130
    except KeyboardInterrupt:
        tell("convoy-train: stopped.")
        return 130
    except (TrainingError, OSError, ModuleNotFoundError, MemoryError, RuntimeError) as exc:
        if isinstance(exc, RuntimeError) and not is_lack_of_memory(exc):
            raise
        tell(f"convoy-train: {_sentence(exc)}")
        return 1
    finally:
        finish_streams()
    return 0


def _run(words: list[str]) -> None:
    for word in words:
        if word != word.encode(errors="replace").decode():  # no card or metadata could hold it, when all is done
            raise TrainingError(f"{word!r} is not UTF-8; write it in UTF-8, or rename what it names.")
    options = parser().parse_args(words)
    options.run(options)
    sys.stdout.flush()


def _sentence(exc: Exception) -> str:
    if isinstance(exc, ModuleNotFoundError):
        return f"{exc.name} is not installed; in the checkout, install what training needs: pip install '.[cpu,train]'"
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.filename}: {exc.strerror}." if exc.filename else f"{exc.strerror}."
    if is_lack_of_memory(exc):
        return "There is not enough memory for this; use smaller images, or fewer, or a machine that has more."
    return str(exc)


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="convoy-train", description="Train, export and evaluate image classifiers.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, (purpose, add_arguments) in COMMANDS.items():
        add_arguments(commands.add_parser(name, help=purpose))
    return top


def _train(sub: argparse.ArgumentParser) -> None:
    _add_recipe(sub, nargs="?", meaning="what to train, and how; not with --resume")
    _add_data(sub)
    sub.add_argument("--output", type=arguments.path, help="the run's folder (default: runs/RECIPE-SEED)")
    sub.add_argument("--resume", type=arguments.path, metavar="RUN", help="go on with the run in this folder")
    sub.add_argument(
        "--teachers",
        type=arguments.path,
        nargs="+",
        metavar="RUN",
        help="finished runs, or exported models, to learn from, as many as the recipe asks for (default: those that it "
        "names, as runs/RECIPE-0, with -1 for a recipe's second)",
    )
    sub.add_argument(
        "--start",
        type=arguments.path,
        metavar="RUN",
        help="a finished run, or an exported model, whose weights to begin with; where its classes are others, all but "
        "the last layer's",
    )
    sub.add_argument("--epochs", type=arguments.positive, help="instead of the recipe's")
    sub.add_argument(
        "--size", type=arguments.size, metavar="PIXELS", help="of the height and width, instead of the recipe's"
    )
    sub.add_argument("--seed", type=arguments.seed, help="instead of the recipe's")
    sub.add_argument("--max-steps", type=arguments.positive, help="end after so many optimiser steps")
    sub.add_argument(
        "--time-budget", type=arguments.positive, metavar="MINUTES", help="stop then, with a checkpoint to resume from"
    )
    _add_device(sub)
    sub.set_defaults(run=command.train)


def _trials(sub: argparse.ArgumentParser) -> None:
    _add_recipe(sub)
    _add_data(sub)
    sub.add_argument("--seeds", type=arguments.seeds, default=5, help="how many, from 0 on (default: 5)")
    _add_split(sub, default="validation", meaning="test, for what is published, learns from those of validation too")
    sub.add_argument(
        "--runs", type=arguments.path, default=Path("runs"), help="where the runs are kept (default: runs)"
    )
    _add_device(sub)
    sub.set_defaults(run=command.trials)


def _speed(sub: argparse.ArgumentParser) -> None:
    _add_recipe(sub)
    _add_data(sub)
    sub.add_argument("--rounds", type=arguments.positive, default=3, help="how often both are measured (default: 3)")
    sub.add_argument(
        "--images", type=arguments.positive, default=20_000, help="of each side in a round (default: 20,000)"
    )
    _add_device(sub)
    sub.set_defaults(run=command.speed)


def _export(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("checkpoint", type=arguments.path, metavar="RUN", help="the run's folder")
    sub.add_argument("model", type=arguments.version_folder, metavar="models/NAME/VERSION", help="the folder to make")
    _add_data(sub)
    _add_words(sub)
    sub.set_defaults(run=command.export)


def _import(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "network", type=arguments.path, metavar="FILE.onnx", help="float32 images in, logits or probabilities out"
    )
    sub.add_argument("model", type=arguments.version_folder, metavar="models/NAME/VERSION", help="the folder to make")
    sub.add_argument(
        "--labels", type=arguments.path, required=True, help="a file with one class per line, as the outputs are"
    )
    channels: Any = {"type": float, "nargs": 3, "metavar": ("R", "G", "B")}
    sub.add_argument(
        "--mean",
        **channels,
        default=[0, 0, 0],
        help="what was subtracted from pixels of 0 to 1 in training; 0.485 0.456 0.406 for most networks that learned "
        "from ImageNet (default: 0 0 0)",
    )
    sub.add_argument(
        "--std", **channels, default=[1, 1, 1], help="and divided by; 0.229 0.224 0.225 there (default: 1 1 1)"
    )
    sub.add_argument("--size", type=arguments.size, help="pixels of its images, where the file leaves them open")
    sub.add_argument(
        "--data",
        type=arguments.path,
        help="pictures that it has not learned from, in a folder for each class: makes its probabilities honest",
    )
    _add_words(sub)
    sub.set_defaults(run=command.import_network)


def _evaluate(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", type=arguments.path, metavar="models/NAME/VERSION", help="the model's folder")
    _add_data(sub)
    _add_split(sub, default="test", meaning="validation, to try things out")
    sub.add_argument(
        "--suite",
        choices=("clean", "full"),
        default="clean",
        help="full: on damaged images too, which takes 77 × as long",
    )
    sub.add_argument(
        "--six-views", action="store_true", help="say, too, how often six views of an image together are right"
    )
    sub.add_argument("--record", action="store_true", help="write the result into the model's metadata and card")
    sub.set_defaults(run=command.evaluate)


def _calibrate(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", type=arguments.path, metavar="models/NAME/VERSION", help="the model's folder")
    _add_data(sub)
    sub.set_defaults(run=command.calibrate)


def _compare(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "models", type=arguments.path, nargs="?", default=Path("models"), help="the model repository (default: models)"
    )
    sub.set_defaults(run=command.compare)


def _add_recipe(command: argparse.ArgumentParser, *, nargs: Literal["?"] | None = None, meaning: str = "") -> None:
    command.add_argument(
        "recipe",
        nargs=nargs,
        choices=sorted(RECIPES),
        metavar="RECIPE",
        help=f"{meaning or 'what to train, and how'}: one of {', '.join(sorted(RECIPES))}",
    )


def _add_words(command: argparse.ArgumentParser) -> None:
    command.add_argument("--description", default="", help="first paragraph of the model card")
    command.add_argument("--note", action="append", default=[], help="a line for the model card; may be repeated")


def _add_data(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data",
        type=arguments.path,
        help="CIFAR-10's folder or tar.gz, or a folder of pictures with one for each class (default: CONVOY_DATA, else "
        "CIFAR-10, downloaded)",
    )


def _add_split(command: argparse.ArgumentParser, *, default: str, meaning: str) -> None:
    command.add_argument(
        "--split", choices=("test", "validation"), default=default, help=f"(default: {default}) {meaning}"
    )


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device", choices=("auto", "cuda", "cpu"), default="auto", help="(default: auto) the GPU where there is one"
    )
    command.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="of matrix products and convolutions (default: auto) that of the run that goes on, else bf16 where the "
        "hardware has it, else fp16 on a GPU and fp32 on a CPU",
    )


COMMANDS = {
    "train": ("train a network by a named recipe", _train),
    "trials": ("train a recipe with several seeds: its accuracy by one view and by six", _trials),
    "speed": ("measure a recipe's images/s beside an ordinary PyTorch loop, in turn", _speed),
    "export": ("export a finished run to the model repository", _export),
    "import": ("serve a network from elsewhere: its ONNX file to the model repository", _import),
    "evaluate": ("measure an exported model on the test images", _evaluate),
    "calibrate": ("give an exported model the thresholds of prediction sets", _calibrate),
    "compare": ("plot the models' accuracy and arithmetic beside published networks", _compare),
}

if __name__ == "__main__":
    sys.exit(main())
