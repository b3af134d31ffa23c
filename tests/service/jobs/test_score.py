"""Inputs → rows, in worker processes."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import pytest

from service.errors import InvalidImage, InvalidSource, StartupError
from service.jobs import score, scoring
from service.jobs.inputs import Input
from service.jobs.ledger import Ledger
from service.jobs.score import Done, Part, Run, chunks, processes
from service.jobs.scoring import Chunk, Scored, Task
from service.jobs.tally import Tally
from service.settings import Settings
from tests.conftest import COLOURS, encode, picture

Runs = Callable[..., Run]
ENCODED = {colour: encode(picture(colour)) for colour in COLOURS}


@pytest.fixture
def task(settings: Settings, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setattr(score, "CHUNK_INPUTS", 10)
    return Task(models_dir / "colours" / "1", settings, None)


def some(count: int) -> Iterator[Input]:
    for index, colour in zip(range(count), itertools.cycle(COLOURS), strict=False):
        yield Input(f"{index}", lambda colour=colour: ENCODED[colour], colour)  # type: ignore[misc]


@pytest.fixture
def a_run(tmp_path: Path) -> Iterator[Runs]:
    """Begins or goes on with a run, in the given folder; its ledger is closed in the end."""
    with ExitStack() as stack:
        yield lambda folder=tmp_path: Run(
            stack.enter_context(closing(Ledger(folder / "out.ndjson", "x"))), Tally(COLOURS)
        )


def committed(folder: Path) -> list[bytes]:
    return (folder / "out.ndjson.partial").read_bytes().splitlines()


def in_this_process(parts: Sequence[Part], first: int, _task: Task, _workers: int) -> Generator[Done | None]:
    """An engine whose rows are the inputs' indexes and ids."""
    for chunk, truths in chunks(parts, first):
        rows = b"".join(b"%d %s\n" % (index, (id_ or "").encode()) for index, id_ in enumerate(chunk.ids, chunk.first))
        yield Done(Scored(rows, [None] * len(truths), 0.0, 0.0), truths, chunk.ids)


def test_ctrl_c_passes_by_the_processes_that_start(task: Task, a_run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf: list[bool] = []
    spawn = ProcessPoolExecutor._spawn_process  # type: ignore[attr-defined]  # nobody's but Python's own

    def noted(pool: ProcessPoolExecutor) -> None:
        deaf.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
        spawn(pool)

    monkeypatch.setattr(ProcessPoolExecutor, "_spawn_process", noted)
    a_run().score([Part([], some(30))], task, processes, workers=2)
    assert deaf == [True] * 2
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_rows_come_in_the_inputs_order_whoever_made_them(task: Task, a_run: Runs, tmp_path: Path) -> None:
    run = a_run()
    run.score([Part([], some(105))], task, processes, workers=2)
    found = [json.loads(line) for line in committed(tmp_path)]
    assert [(row["index"], row["id"]) for row in found] == [(i, str(i)) for i in range(105)]
    assert [row["label"] for row in found] == list(itertools.islice(itertools.cycle(COLOURS), 105))
    assert run.tally.confusion == {colour: {colour: 35} for colour in COLOURS}


def test_a_run_that_was_stopped_is_gone_on_with_to_the_same_bytes(task: Task, a_run: Runs, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    a_run(tmp_path / "whole").score([Part([], some(105))], task, processes, workers=1)
    first = a_run()
    first.on_rows = lambda _: first.stop()
    first.score([Part([], some(105))], task, processes, workers=1)
    assert 0 < first.ledger.rows < 105
    first.ledger.close()
    second = a_run()
    second.score([Part([], some(105))], task, processes, workers=1)
    assert committed(tmp_path) == committed(tmp_path / "whole")
    assert second.tally.images == 105


@pytest.mark.parametrize("chunks_before", [1, 2, 3, 4])
def test_a_run_goes_on_in_the_part_in_which_it_was_stopped(
    chunks_before: int, task: Task, a_run: Runs, tmp_path: Path
) -> None:
    def parts() -> list[Part]:
        return [Part([name], iter([replace(each, id=f"{name}/{each.id}") for each in some(15)])) for name in "abc"]

    def on_rows(count: int) -> None:
        counts.append(count)
        if len(counts) == chunks_before:
            first.stop()

    first, counts = a_run(), list[int]()
    first.on_rows = on_rows
    first.score(parts(), task, in_this_process)
    assert counts == [10, 5, 10, 5][:chunks_before]
    first.ledger.close()
    second = a_run()
    second.on_rows = counts.append
    second.score(parts(), task, in_this_process)
    expected = [f"{name}/{index}" for name in "abc" for index in range(15)]
    assert committed(tmp_path) == [f"{index} {id_}".encode() for index, id_ in enumerate(expected)]
    assert sum(counts) == 45


def test_rows_are_certain_soon_after_they_are_made(
    task: Task, a_run: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certain = list[int]()

    def watched(*given: Any) -> Generator[Done | None]:  # noqa: ANN401
        for done in in_this_process(*given):
            yield done
            certain.append(json.loads((tmp_path / "out.ndjson.partial.json").read_bytes())["rows"])

    monkeypatch.setattr(score, "COMMIT_S", -1.0)
    a_run().score([Part([], some(25))], task, watched)
    assert certain == [10, 20, 25]


def test_inputs_that_have_changed_are_not_gone_on_with(task: Task, a_run: Runs) -> None:
    first = a_run()
    first.score([Part([], some(20))], task, processes, workers=1)
    first.ledger.close()
    with pytest.raises(StartupError, match="have changed"):
        a_run().score([Part([], some(19))], task, processes, workers=1)


def test_nor_are_those_of_which_as_many_were_added_as_taken_away(task: Task, a_run: Runs) -> None:
    first = a_run()
    first.score([Part([], some(20))], task, processes, workers=1)
    first.ledger.close()
    others = [replace(each, id="new") if each.id == "3" else each for each in some(25)]
    second = a_run()
    with pytest.raises(StartupError, match="have changed"):
        second.score([Part([], iter(others))], task, processes, workers=1)
    assert second.ledger.rows == 20


def test_what_is_done_is_kept_when_the_source_breaks_off(task: Task, a_run: Runs, tmp_path: Path) -> None:
    def breaking() -> Iterator[Input]:
        yield from some(95)
        raise InvalidSource("cut off")

    run = a_run()
    with pytest.raises(InvalidSource):
        run.score([Part([], breaking())], task, processes, workers=1)
    assert 0 < run.ledger.rows <= 90
    assert len(committed(tmp_path)) == run.ledger.rows


def test_a_model_that_can_not_be_used_is_one_sentence(task: Task, a_run: Runs, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="can't be used"):
        a_run().score([Part([], some(5))], Task(tmp_path / "nowhere", task.settings, None), processes, workers=1)


def test_a_worker_that_dies_is_one_sentence(task: Task, a_run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "score", _die)
    with pytest.raises(StartupError, match="worker process died"):
        a_run().score([Part([], some(5))], task, processes, workers=1)


def test_workers_that_end_with_a_run_that_is_told_to_are_no_error(
    task: Task, a_run: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run()
    monkeypatch.setattr(score, "score", _stop_and_die)  # as `timeout` ends all of a group
    before = signal.signal(signal.SIGUSR1, lambda *_: run.stop())
    try:
        run.score([Part([], some(5))], task, processes, workers=1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert run.stopped
    assert run.ledger.rows == 0


def test_who_is_told_to_stop_waits_for_no_chunk(
    task: Task, a_run: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run()
    monkeypatch.setattr(score, "score", _stop_and_wait)
    before = signal.signal(signal.SIGUSR1, lambda *_: run.stop())
    try:
        run.score([Part([], iter([Input(str(tmp_path / "stopped"), bytes)]))], task, processes, workers=1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (tmp_path / "stopped").exists()
    assert run.ledger.rows == 0


def test_who_is_told_to_stop_reads_no_further_chunk(task: Task, a_run: Runs) -> None:
    run, taken = a_run(), list[Input]()

    def inputs() -> Iterator[Input]:
        for each in some(100):
            run.stop()
            taken.append(each)
            yield each

    run.score([Part([], inputs())], task, processes, workers=1)
    assert len(taken) == score.CHUNK_INPUTS


@pytest.mark.parametrize(
    ("cores", "gpus", "asked", "workers", "threads"),
    [
        (4, None, 0, 4, 1),
        (4, None, 3, 3, 1),
        (4, None, 2, 2, 2),
        (4, None, 8, 8, 1),
        (16, 2, 0, 8, 2),
        (16, 0, 0, 4, 4),  # one that can't be counted
        (2, 2, 0, 2, 1),
    ],
)
def test_workers_share_the_cores_and_have_their_numbers(
    cores: int, gpus: int | None, asked: int, workers: int, threads: int, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = list[tuple[int, int | None, list[int]]]()

    def begin(workers: int, *_: object, initargs: tuple[Task, object, SimpleQueue[int]], **__: object) -> None:
        worker, numbers = initargs[0], initargs[2]
        size = scoring.CPU_BATCH_SIZE if gpus is None else scoring.GPU_BATCH_SIZE
        assert worker.settings.max_batch_size == size
        begun.append((workers, worker.settings.threads, [numbers.get() for _ in range(workers)]))
        raise BrokenProcessPool

    monkeypatch.setattr(score, "usable_cores", lambda: cores)
    monkeypatch.setattr(score, "may_use_gpu", lambda _device: gpus is not None)
    monkeypatch.setattr(score, "gpus", lambda: gpus)
    monkeypatch.setattr(score, "ProcessPoolExecutor", begin)
    with pytest.raises(BrokenProcessPool):
        next(processes([], 0, task, asked))
    assert begun == [(workers, threads, list(range(workers)))]


def _stop_and_wait(chunk: Chunk) -> None:
    os.kill(os.getppid(), signal.SIGUSR1)
    if scoring.stopped.wait(60):
        Path(chunk.ids[0] or "").touch()


def _die(_chunk: object) -> None:
    os._exit(9)


def _stop_and_die(_chunk: object) -> None:
    os.kill(os.getppid(), signal.SIGUSR1)
    os._exit(9)


def test_chunks_are_cut_by_count_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "CHUNK_INPUTS", 4)
    monkeypatch.setattr(score, "CHUNK_BYTES", 2 * len(ENCODED["red"]))
    assert [len(truths) for _, truths in chunks([Part([], some(5))], 0)] == [2, 2, 1]
    monkeypatch.setattr(score, "CHUNK_BYTES", 1 << 20)
    assert [(chunk.first, len(truths)) for chunk, truths in chunks([Part([], some(9))], 8)] == [
        (8, 4),
        (12, 4),
        (16, 1),
    ]


def test_a_chunk_never_reaches_from_one_part_into_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "CHUNK_INPUTS", 4)
    parts = [Part([], some(count)) for count in (3, 0, 4, 5)]
    assert [(chunk.first, chunk.ids) for chunk, _ in chunks(parts, 7)] == [
        (7, ["0", "1", "2"]),
        (10, ["0", "1", "2", "3"]),
        (14, ["0", "1", "2", "3"]),
        (18, ["4"]),
    ]


def test_only_what_can_be_read_nowhere_else_is_read_before_it_is_handed_on() -> None:
    error = InvalidImage("damaged")

    def read() -> bytes:
        raise error

    inputs = [Input("a", read, anywhere=True), Input("b", read), Input("c", lambda: b"c")]
    ((chunk, _),) = chunks([Part([], iter(inputs))], 0)
    assert chunk.contents == [read, error, b"c"]
