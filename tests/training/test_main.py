"""The command line `convoy-train`: one sentence for what the user can mend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from training import data, plots
from training.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "tutorial", "--data", "/nowhere", "--output", "/nowhere/run"], "There is no CIFAR-10 at /nowhere"),
        (["train", "--resume", "/nowhere"], "There is no checkpoint in /nowhere"),
        (["train"], "Name the recipe to train by, one of cifar10, "),
        (["train", "tutorial", "--resume", "/nowhere"], "by its own recipe; leave out tutorial"),
        (["train", "--resume", "/nowhere", "--max-steps", "9"], "as it was started; leave out --max-steps"),
        (["train", "--resume", "/nowhere", "--teachers", "/x"], "as it was started; leave out --teachers"),
        (["train", "--resume", "/nowhere", "--start", "/x"], "as it was started; leave out --start"),
        (["train", "cifar10", "--start", "/x", "--output", "/nowhere/run"], "a start of its own, its first teacher"),
        (["train", "tutorial", "--start", "/x", "--output", "/nowhere/run"], "There is no checkpoint in /x"),
        (
            ["train", "fast", "--precision", "fp16", "--device", "cpu", "--output", "/nowhere/run"],
            "fp16 training needs CUDA",
        ),
        (
            ["train", "cifar10", "--teachers", "/nowhere", "--output", "/nowhere/run"],
            "There is no checkpoint in /nowhere",
        ),
        (["export", "/nowhere", "models/x/1", "--data", "/nowhere"], "There is no checkpoint in /nowhere"),
        (["evaluate", "/nowhere"], "/nowhere is not an exported model"),
        (["calibrate", "/nowhere"], "/nowhere is not an exported model"),
        (["train", "fast", "--data", "~nosuch/x"], "There is no home folder to find ~nosuch/x in"),
        (["export", "/nowhere", "models/X/1"], "models/X/1 names no version of a model"),
        (["compare", "/nowhere"], "No model in /nowhere was measured"),
        (["speed", "cifar10", "--data", "/nowhere"], "Recipe cifar10 has teachers"),
        (["speed", "fast", "--data", "/nowhere"], "There is no CIFAR-10 at /nowhere"),
        (["trials", "fast", "--data", "/nowhere"], "There is no CIFAR-10 at /nowhere"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVOY_DATA", "/nowhere")
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("convoy-train: ")
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_no_data_is_looked_for_before_the_model_is_there(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "find_data", Mock(side_effect=AssertionError))
    assert main([command, "/nowhere"]) == 1


@pytest.mark.parametrize(
    ("raised", "status", "sentence"),
    [
        (KeyboardInterrupt(), 130, "convoy-train: stopped.\n"),
        (OSError(28, "No space left on device", "models/x"), 1, "convoy-train: models/x: No space left on device.\n"),
        (OSError(28, "No space left on device"), 1, "convoy-train: No space left on device.\n"),
        (OSError("odd"), 1, "convoy-train: odd\n"),
    ],
)
def test_what_ends_any_command_is_one_sentence(
    raised: BaseException,
    status: int,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plots, "shipped", Mock(side_effect=raised))
    assert main(["compare", "/nowhere"]) == status
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize("module", ["torch", "onnx"])
def test_a_missing_library_is_told_with_how_to_install_it(module: str) -> None:
    script = (
        f"import sys; sys.modules[{module!r}] = None\n"  # then it can't be imported
        "from training.__main__ import main; sys.exit(main(['export', '/nowhere', 'models/x/1']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    told = f"convoy-train: {module} is not installed; in the checkout, install what training needs: pip install "
    assert (done.returncode, done.stderr) == (1, f"{told}'.[cpu,train]'\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "fast", "--epochs", "x"], "--epochs: 'x' is not a whole number from 1 to 1,000,000,000"),
        (["train", "fast", "--time-budget", "9" * 400], "is not a whole number from 1 to 1,000,000,000"),
        (["train", "pictures", "--size", "100000"], "--size: '100000' is not a whole number from 1 to 1,024"),
        (["trials", "fast", "--seeds", "10001"], "--seeds: '10001' is not a whole number from 1 to 10,000"),
        (["train", "fast", "--output", ""], "--output: there is nothing between the quotes; name a file or folder"),
        (["export", "", "models/x/1"], "argument RUN: there is nothing between the quotes"),
        (["export", "runs/x", ""], "argument models/NAME/VERSION: there is nothing between the quotes"),
        (["train", "fast", "--seed", "20261126"], "--seed: '20261126' is not a whole number from 0 to 9,999"),
        (["train", "fast", "--seed", "-1"], "--seed: '-1' is not a whole number from 0 to 9,999"),
        (["speed"], "the following arguments are required: RECIPE"),
    ],
)
def test_what_is_no_command_says_what_would_be(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "/nowhere", "models/x/1", "--note", "caf\udce9"],
        ["import", "/nowhere", "models/x/1", "--labels", "/nowhere", "--description", "caf\udce9"],
        ["train", "fast", "--output", "caf\udce9"],
        ["evaluate", "caf\udce9/1"],
    ],
)
def test_what_is_not_utf_8_is_refused_before_anything_is_done(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert "\\udce9" in told
    assert told.endswith("' is not UTF-8; write it in UTF-8, or rename what it names.\n")


@pytest.mark.parametrize("raised", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you")])
def test_a_lack_of_memory_is_one_sentence(
    raised: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "shipped", Mock(side_effect=raised))
    assert main(["compare", "/nowhere"]) == 1
    assert capsys.readouterr().err.startswith("convoy-train: There is not enough memory for this; use smaller images")


def test_what_is_no_mistake_of_the_users_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "shipped", Mock(side_effect=RuntimeError("odd")))
    with pytest.raises(RuntimeError, match="odd"):
        main(["compare", "/nowhere"])


def test_a_reader_that_stops_early_is_no_traceback(tmp_path: Path) -> None:
    model = Path(__file__).parents[2] / "models" / "tutorial-cnn" / "1"
    script = (
        "import sys, training.evaluate as e; from service.metadata import ModelMetadata as M; "
        "e.evaluate_model = lambda folder, *_: M.read(folder).evaluations; "
        "from training.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "evaluate", str(model), "--data", str(tmp_path)]
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
