"""Chunks → rows."""

from __future__ import annotations

import json
import logging
import multiprocessing
import signal
import threading
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import pytest

from service.errors import InferenceFailed, InvalidImage, StartupError
from service.jobs import scoring
from service.jobs.scoring import Chunk, Scorer, Stopped, Task
from service.settings import Settings
from tests.conftest import COLOURS, encode, picture


@pytest.fixture
def task(settings: Settings, models_dir: Path) -> Task:
    return Task(models_dir / "colours" / "1", settings.model_copy(update={"max_batch_size": 4}), None)


def test_every_input_has_its_row_in_its_place(task: Task) -> None:
    contents = [encode(picture(colour)) for colour in COLOURS * 3]
    contents[4:4] = [b"no image"]
    scored = Scorer(task).score(Chunk(20, [str(i) for i in range(10)], [*contents[:9], InvalidImage("gone")]))
    found = [json.loads(line) for line in scored.rows.splitlines()]
    assert [row["index"] for row in found] == list(range(20, 30))
    assert [row["id"] for row in found] == [str(i) for i in range(10)]
    assert [row.get("label") for row in found] == [*COLOURS, "red", None, "green", "blue", "red", "green", None]
    labels = [prediction and prediction.label for prediction in scored.predictions]
    assert labels == [*COLOURS, "red", None, "green", "blue", "red", "green", None]


def test_pixels_need_no_decoding(task: Task) -> None:
    scored = Scorer(task).score(Chunk(0, ["a"], [np.asarray(picture("blue", (20, 30)))]))
    assert json.loads(scored.rows)["label"] == "blue"


def test_nothing_more_is_decoded_once_nobody_wants_it(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "stopped", threading.Event())
    read = []

    def picture_and_stop() -> bytes:
        read.append(encode(picture("red")))
        scoring.stopped.set()
        return read[-1]

    with pytest.raises(Stopped):
        Scorer(task).score(Chunk(0, ["a"] * 1000, [picture_and_stop] * 1000))
    assert 0 < len(read) <= scoring.READERS


def test_an_engine_that_fails_is_not_blamed_on_the_inputs(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer(task)

    def fail(_rows: object) -> None:
        raise InferenceFailed("the device is gone")

    monkeypatch.setattr(scorer._model.engine, "infer", fail)
    with pytest.raises(InferenceFailed):
        scorer.score(Chunk(0, ["a"], [encode(picture("red"))]))


def one_number(number: int) -> SimpleQueue[int]:
    """What a pool's processes take their numbers from, with one in it."""
    numbers: SimpleQueue[int] = multiprocessing.get_context("spawn").SimpleQueue()
    numbers.put(number)
    return numbers


def test_each_process_has_a_number_of_its_own(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(logging.Logger, "setLevel", lambda *_: None)
    monkeypatch.setattr(scoring, "_scorer", ())
    given: list[int] = []
    monkeypatch.setattr(scoring, "Scorer", lambda _task, number: given.append(number))
    scoring.start(task, multiprocessing.Pipe()[0], one_number(3))
    assert given == [3]


def test_what_keeps_a_process_from_starting_is_raised_by_its_first_chunk(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(scoring, "_scorer", ())
    monkeypatch.setattr(logging.Logger, "setLevel", lambda *_: None)
    scoring.start(Task(tmp_path, task.settings, None), multiprocessing.Pipe()[0], one_number(3))
    with pytest.raises(StartupError, match="can't be used"):
        scoring.score(Chunk(0))
