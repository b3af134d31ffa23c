"""What the commands of `convoy-train` do, from arguments to folders."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from PIL import Image

from service.metadata import ModelMetadata
from tests.training.test_pictures import fill
from training import data, loop, plots, speed
from training.__main__ import main
from training.architectures import Network
from training.recipes import RECIPES
from training.run import Run


def test_train_stop_resume_export_evaluate(
    generated_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run, model = ["--data", str(generated_data)], str(tmp_path / "run"), str(tmp_path / "models" / "tiny" / "1")
    assert main(["train", "tutorial", *data, "--output", run, "--max-steps", "40", "--precision", "fp32"]) == 0
    assert main(["train", *data, "--resume", run]) == 0  # nothing left to do
    assert main(["export", run, model, *data]) == 0
    assert main(["evaluate", model, *data, "--record"]) == 0
    assert main(["evaluate", model, *data, "--split", "validation", "--six-views"]) == 0
    assert main(["calibrate", model, *data]) == 0
    output = capsys.readouterr().out
    assert output.endswith(f"Next: convoy-train evaluate {model} --record --data {generated_data}\n")
    assert "(validation split, single view, fp32 ONNX file)" in output
    assert "ECE, 15 bins" in output
    assert "by six views" in output
    card = (Path(model) / "MODEL_CARD.md").read_text()
    assert "epochs: `convoy-train train tutorial --output run --max-steps 40`." in card
    assert "`convoy-train evaluate models/tiny/1`" in card
    assert "trained with: command" not in card


def test_what_was_measured_is_recorded_before_it_is_shown(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[object] = []
    monkeypatch.setattr("training.evaluate.evaluate_model", lambda *_: ("clean",))
    monkeypatch.setattr("training.evaluate.evaluate_robustness", lambda *_: ("damaged",))
    monkeypatch.setattr("training.evaluate.record", lambda _folder, *measured: recorded.extend(measured))
    monkeypatch.setattr("training.report.table", lambda _: "")
    monkeypatch.setattr("training.report.robustness_table", Mock(side_effect=BrokenPipeError))
    command = ["evaluate", str(models_dir / "colours" / "1"), "--data", str(tmp_path), "--suite", "full", "--record"]
    assert main(command) == 1
    assert recorded == [("clean",), (), ("damaged",)]
    monkeypatch.setattr("training.report.table", Mock(side_effect=BrokenPipeError))
    assert main(command) == 1
    assert recorded[3:] == [("clean",)]


@pytest.fixture
def no_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None has been downloaded, and none may be."""
    monkeypatch.delenv("CONVOY_DATA", raising=False)
    monkeypatch.setattr(data, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(data, "download", Mock(side_effect=AssertionError))


@pytest.mark.usefixtures("no_cifar10")
@pytest.mark.parametrize("words", [["evaluate"], ["evaluate", "--record"], ["calibrate"], ["export", "run"]])
def test_that_a_model_has_other_classes_than_cifar10_is_told_before_that_is_downloaded(
    words: list[str],
    models_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = models_dir / "colours" / "1"
    saved = Mock(labels=ModelMetadata.read(model).labels, config=RECIPES["fast"])
    monkeypatch.setattr("training.export.exportable", lambda *_: saved)
    assert main([*words, str(model)]) == 1
    assert capsys.readouterr().err == (
        "convoy-train: Without --data the images are CIFAR-10's, and their classes are not those asked for; point "
        "--data at images of these.\n"
    )


@pytest.mark.usefixtures("no_cifar10")
@pytest.mark.parametrize("words", [["train", "pictures"], ["trials", "pictures"], ["speed", "pictures"]])
def test_that_a_recipe_is_for_other_sizes_than_cifar10s_is_told_before_that_is_downloaded(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert "CIFAR-10's images have 32 × 32 pixels, not 64 × 64; choose" in capsys.readouterr().err


def test_a_time_budget_stops_a_run_with_a_checkpoint_even_before_its_first_step(
    generated_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets: list[float] = []
    train = loop.train

    def shorter(run: Run, folder: Path, time_budget_s: float) -> Network:
        budgets.append(time_budget_s)
        return train(run, folder, time_budget_s=0)

    monkeypatch.setattr(loop, "train", shorter)
    data, run = ["--data", str(generated_data)], str(tmp_path / "my run")
    assert main(["train", "tutorial", *data, "--output", run, "--time-budget", "3"]) == 130
    assert main(["train", *data, "--resume", run, "--time-budget", "4", "--device", "cpu"]) == 130
    assert budgets == [180, 240]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("Stopped after 0 of 336 steps; ")
    assert first.endswith(f"steps; go on with: convoy-train train --resume '{run}' --data {generated_data}")
    assert second.endswith(f"go on with: convoy-train train --resume '{run}' --device cpu --data {generated_data}")


@pytest.mark.usefixtures("narrow_networks")
def test_pictures_that_were_saved_anew_after_a_training_are_not_exported_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run, model = fill(tmp_path / "colours", 30), str(tmp_path / "run"), str(tmp_path / "models" / "tiny" / "1")
    begin = ["train", "pictures", "--size", "16", "--max-steps", "2", "--data", str(folder), "--output"]
    assert main([*begin, run]) == 0
    before = {file: file.read_bytes() for file in folder.rglob("*.[pP][nN][gG]")}
    for file in before:
        Image.open(file).save(file, compress_level=0)
    assert main(["export", run, model, "--data", str(folder)]) == 1
    told = r"\d+ of the \d+ validation images of colours, .* are, saved anew, among those that .*run has learned"
    assert re.search(told, capsys.readouterr().err)
    assert not Path(model).exists()
    for file, content in before.items():
        file.with_stem(f"{file.stem}-copy").write_bytes(content)
    assert main([*begin, str(tmp_path / "other")]) == 1
    assert "among those that this run, or a teacher of it, learns from" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_trials_that_were_stopped_go_on_by_the_same_command(
    generated_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "tutorial", replace(RECIPES["tutorial"], epochs=1))
    command = ["trials", "tutorial", "--data", str(generated_data), "--seeds", "1", "--runs", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr("training.trials.train", lambda run, folder: loop.train(run, folder, time_budget_s=0.001))
        assert main(command) == 130
    assert "steps; the same command goes on.\n" in capsys.readouterr().err
    assert main(command) == 0
    assert "over 1 seeds" in capsys.readouterr().out


def test_compare_says_which_models_are_outside_the_plot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = [plots.Network("a/1 fp32", 30, 0.95, ours=True), plots.Network("b/1 fp32", 557, 0.95, ours=True)]
    monkeypatch.setattr(plots, "shipped", lambda _models: networks)
    assert main(["compare", str(tmp_path)]) == 0
    inside, outside, _ = capsys.readouterr().out.splitlines()
    assert inside.endswith("30.0 million multiply-accumulates")
    assert outside.endswith("557.0 million multiply-accumulates, outside the plot")


def test_a_run_is_not_overwritten(generated_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "train",
        "tutorial",
        "--data",
        str(generated_data),
        "--output",
        str(tmp_path / "run"),
        "--max-steps",
        "1",
    ]
    assert main(command) == 0
    assert main(command) == 1
    assert "holds a run already" in capsys.readouterr().err


def test_a_recipe_with_teachers_says_how_to_make_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "cifar10-plain"]) == 1
    assert "make it with: convoy-train train cifar10-teacher-44" in capsys.readouterr().err


def test_the_second_teacher_of_a_recipe_is_another_seeds(
    generated_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(RECIPES, "tutorial-adam", replace(RECIPES["tutorial"], teachers=("tutorial", "tutorial")))
    command = ["train", "tutorial", "--data", str(generated_data), "--max-steps", "1"]
    student = ["train", "tutorial-adam", "--data", str(generated_data), "--max-steps", "1"]
    assert main(command) == 0
    assert main(student) == 1
    assert "make it with: convoy-train train tutorial --seed 1, or" in capsys.readouterr().err
    assert main([*command, "--seed", "1"]) == 0
    assert main(student) == 0


def test_trials_say_how_good_a_recipe_is_over_seeds(
    generated_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "tutorial", replace(RECIPES["tutorial"], max_steps=3))
    command = ["trials", "tutorial", "--data", str(generated_data), "--seeds", "2", "--runs", str(tmp_path / "runs")]
    assert main(command) == 0
    assert main([*command, "--split", "test"]) == 0
    output = capsys.readouterr().out
    assert "tutorial on 200 images of the validation split" in output
    assert "tutorial on 400 images of the test split" in output
    assert output.count("% over 2 seeds") == 4


def test_speed_measures_both_sides_in_every_round(
    generated_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int, int]] = []

    def measure(recipe: speed.Side, ordinary: speed.Side, rounds: int, images: int) -> list[tuple[float, float]]:
        assert (recipe.steps, ordinary.steps) == (speed.recipe_steps, speed.ordinary_steps)
        asked.append((recipe.config.architecture, rounds, images))
        return [(3.0, 2.0)] * rounds

    monkeypatch.setattr(speed, "images_per_second", measure)
    assert main(["speed", "fast", "--data", str(generated_data), "--rounds", "4", "--images", "7"]) == 0
    assert asked == [(RECIPES["fast"].architecture, 4, 7)]
    assert capsys.readouterr().out.endswith("ratio    1.50\n")
