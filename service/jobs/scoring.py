"""A chunk of inputs → its rows, in a process of its own with an engine of its own: decoding and inference side by side.

The chunk's batches depend on nothing but the chunk, so a run that was interrupted gives the very same bytes.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np

from service.coverage import coverage_of
from service.errors import InvalidImage, ServiceError, StartupError
from service.jobs import results
from service.jobs.inputs import Content
from service.jobs.tally import Predicted
from service.loading import LoadedModel, load_version, opener
from service.metadata import InputSpec
from service.prediction import Prediction, predictions
from service.preparation import decoded
from service.preprocessing import fit
from service.settings import Settings
from service.types import RGBImage

CPU_BATCH_SIZE, GPU_BATCH_SIZE = 64, 512
READERS = 8  # files that a worker has open at a time: most of the time they are waited for, the more so in a far store


class Stopped(Exception):
    """The rows of this chunk are not wanted any more."""


@dataclass(frozen=True, slots=True)
class Task:
    """What one worker is to score."""

    folder: Path  # of the model's version
    settings: Settings
    top_k: int | None
    coverage: float | None = None  # of the prediction sets that rows are to have

    def sized(self, *, threads: int, gpu: bool) -> Task:
        """The same for a worker with so many threads, on a GPU or not."""
        sizes = {"threads": threads, "max_batch_size": GPU_BATCH_SIZE if gpu else CPU_BATCH_SIZE}
        return replace(self, settings=self.settings.model_copy(update=sizes))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive inputs."""

    first: int  # index of the first
    ids: list[str | None] = field(default_factory=list)
    contents: list[Content | InvalidImage | Callable[[], Content]] = field(default_factory=list)  # or how to get it


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of a chunk."""

    rows: bytes
    predictions: list[Predicted | None]  # None: an error
    decode_s: float  # with the time to read what came unread
    infer_s: float


class Scorer:
    """One model, ready to score chunks."""

    def __init__(self, task: Task, number: int = 0) -> None:
        """Load and verify the model; `number` as for `Engine`. Raises `StartupError`."""
        self._task, self._readers = task, ThreadPoolExecutor(READERS)

        try:
            self._model: LoadedModel = load_version(
                task.folder, opener(task.settings, threads=task.settings.threads, number=number), warm_up=False
            )
        except (OSError, ValueError, ServiceError) as exc:
            raise StartupError(f"The model in {task.folder} can't be used: {exc}") from exc
        self._threshold: float | None = None
        if task.coverage is not None:
            try:
                asked = coverage_of(self._model.metadata, self._model.engine.precision, task.coverage)
            except ValueError as exc:
                raise StartupError(f"--coverage: {exc}") from exc
            self._threshold = asked.threshold

    def score(self, chunk: Chunk) -> Scored:
        """The chunk's rows; raises `InferenceFailed` when the engine fails: the inputs are not to blame for that."""
        began = time.perf_counter()
        row = partial(_row, spec=self._model.metadata.input, max_pixels=self._task.settings.max_image_pixels)
        unread = any(map(callable, chunk.contents))
        rows = list((self._readers.map if unread else map)(row, chunk.contents))
        decoded_at = time.perf_counter()
        good = [each for each in rows if not isinstance(each, InvalidImage)]
        size = self._model.engine.max_batch_size
        answers = (
            answer
            for start in range(0, len(good), size)
            for answer in predictions(
                self._model.identity, self._model.engine.infer(np.stack(good[start : start + size]))
            )
        )
        outcomes = [each if isinstance(each, InvalidImage) else next(answers) for each in rows]
        inferred_at = time.perf_counter()
        return Scored(
            results.rows(chunk.first, chunk.ids, outcomes, self._task.top_k, self._threshold),
            [self._predicted(outcome) for outcome in outcomes],
            decoded_at - began,
            inferred_at - decoded_at,
        )

    def _predicted(self, outcome: Prediction | InvalidImage) -> Predicted | None:
        if isinstance(outcome, InvalidImage):
            return None
        among = () if self._threshold is None else tuple(outcome.set_from(self._threshold))
        return Predicted(outcome.label, among)


def _row(
    content: Content | InvalidImage | Callable[[], Content], *, spec: InputSpec, max_pixels: int
) -> RGBImage | InvalidImage:
    if stopped.is_set():
        raise Stopped
    try:
        image = decoded(content() if callable(content) else content, spec, max_pixels)
    except InvalidImage as exc:
        return exc
    if isinstance(image, InvalidImage):
        return image
    return fit(image, height=spec.height, width=spec.width, resize_policy=spec.resize_policy)


_scorer: Sequence[Scorer | StartupError] = ()  # this process's one, since a pool's tasks can't be given any


stopped = threading.Event()  # what this process has been given need not be done any more


def start(task: Task, stop: Connection, numbers: SimpleQueue[int]) -> None:
    """Make this process of a pool ready; what keeps it from that is raised by its first `score`.

    The end of `stop` ends what is under way; in `numbers` there is one for each process.
    """
    global _scorer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    logging.getLogger("service").setLevel(logging.ERROR)  # every worker would have the same to say
    threading.Thread(target=_heed_the_parent, args=[stop], daemon=True).start()
    try:
        _scorer = [Scorer(task, numbers.get())]
    except StartupError as exc:
        _scorer = [exc]


def score(chunk: Chunk) -> Scored:
    """Score a chunk in a process that `start` has made ready."""
    (scorer,) = _scorer
    if isinstance(scorer, StartupError):
        raise scorer
    return scorer.score(chunk)


def _heed_the_parent(stop: Connection) -> None:
    """A parent that is killed can't end its workers, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([stop, parent.sentinel])
        stopped.set()
        parent.join()
        os._exit(1)
