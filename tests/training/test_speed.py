"""The benchmark of training: what it compares, never how fast that is."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from training.data import Split
from training.errors import DataError, TrainingError
from training.recipes import RECIPES, TrainConfig
from training.speed import (
    Pictures,
    Side,
    Steps,
    _ask,
    _process,
    images_per_second,
    ordinary_steps,
    recipe_steps,
    table,
)

CONFIG = replace(RECIPES["fast"], batch_size=100, epochs=1, max_steps=2)
pytestmark = pytest.mark.usefixtures("narrow_networks")


def test_a_picture_is_cropped_and_normalised_as_usual() -> None:
    split = Split(torch.full((1, 32, 32, 3), 255, dtype=torch.uint8), torch.tensor([7]))
    pixels, label = Pictures(split)[0]
    assert (label, pixels.dtype, pixels.shape) == (7, torch.float32, (3, 32, 32))
    white, black = (pixels[:, row, column].tolist() for row, column in ((16, 16), (0, 0)))
    assert white == pytest.approx([(1 - 0.4914) / 0.2470, (1 - 0.4822) / 0.2435, (1 - 0.4465) / 0.2616])
    assert all(b <= w for b, w in zip(black, white, strict=True))  # the corner may be of the black border


def test_the_recipes_side_goes_on_past_its_schedules_end(generated_data: Path) -> None:
    assert list(islice(recipe_steps(CONFIG, generated_data, "cpu", "fp32"), 5)) == [100] * 5


def test_the_recipes_side_takes_whole_batches_alone_as_training_does(generated_data: Path) -> None:
    steps = recipe_steps(replace(CONFIG, batch_size=700), generated_data, "cpu", "fp32")  # of 1,800 images
    assert list(islice(steps, 3)) == [700] * 3


def test_the_ordinary_side_loads_single_pictures_in_batches(
    generated_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.speed.WORKERS", 0)
    monkeypatch.setattr("training.speed.ORDINARY_BATCH", 30)
    assert list(islice(ordinary_steps(CONFIG, generated_data, "cpu", "fp32"), 3)) == [30] * 3


def test_less_than_a_batch_of_the_ordinary_side_is_refused(
    generated_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.speed.ORDINARY_BATCH", 1_801)
    with pytest.raises(DataError, match=r"1800 images to learn from .* the ordinary loop takes 1801 in a step"):
        next(ordinary_steps(CONFIG, generated_data, "cpu", "fp32"))


def test_the_table_shows_rounds_medians_and_the_median_ratio() -> None:
    shown = table([(200.0, 100.0), (100.0, 100.0), (450.0, 150.0)])
    assert shown.splitlines()[0] == "round 1  recipe      200 images/s   ordinary      100 images/s"
    assert shown.splitlines()[3:] == [
        "median   recipe      200 images/s   ordinary      100 images/s",
        "ratio    2.00",
    ]


def idle_steps(config: TrainConfig, _data: Path, _device: str, _precision: str) -> Steps:
    while True:
        yield config.batch_size


def test_both_processes_answer_in_every_round_and_end(tmp_path: Path) -> None:
    recipe, ordinary = (Side(idle_steps, replace(CONFIG, batch_size=n), tmp_path, "cpu", "fp32") for n in (100, 1))
    measured = images_per_second(recipe, ordinary, rounds=2, images=5)
    assert len(measured) == 2
    assert all(speed > 0 for both in measured for speed in both)
    assert not multiprocessing.active_children()


def unreadable_steps(_config: TrainConfig, data: Path, _device: str, _precision: str) -> Steps:
    yield len(data.read_bytes())


def dying_steps(config: TrainConfig, _data: Path, _device: str, _precision: str) -> Steps:
    yield config.batch_size
    os._exit(1)  # as when the kernel takes back its memory


@pytest.mark.parametrize(
    ("steps", "raised", "told"),
    [
        (unreadable_steps, FileNotFoundError, "No such file or directory"),
        (dying_steps, TrainingError, "One of the two processes that measure has ended in between; its reason is above"),
    ],
)
def test_what_ends_a_process_is_told(
    steps: Callable[[TrainConfig, Path, str, str], Steps], raised: type[Exception], told: str, tmp_path: Path
) -> None:
    with pytest.raises(raised, match=told), _process(Side(steps, CONFIG, tmp_path / "none", "cpu", "fp32")) as asked:
        _ask(asked, 1)


def test_ctrl_c_is_for_whoever_started_a_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with _process(Side(idle_steps, CONFIG, tmp_path, "cpu", "fp32")) as connection:
        (process,) = multiprocessing.active_children()
        assert process.pid
        os.kill(process.pid, signal.SIGINT)
        assert _ask(connection, 1) > 0
        os.kill(process.pid, signal.SIGINT)
        connection.send(10**15)  # it would take hours: the end of the connection ends that
    assert process.exitcode == 0
    assert capfd.readouterr().err == ""
