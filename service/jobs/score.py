"""Inputs → chunks → worker processes → rows in the inputs' order, committed as they come; resumable at any moment."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

import numpy as np

from service.errors import StartupError
from service.jobs.inputs import Input
from service.jobs.ledger import Ledger
from service.jobs.scoring import Chunk, Scored, Task, score, start
from service.jobs.tally import Tally

CHUNK_INPUTS = 256
CHUNK_BYTES = 32 << 20  # of contents, since chunks wait in memory
CHUNKS_PER_WORKER = 3  # one is scored, one is ready, one waits for its turn to be written
COMMIT_S = 1.0


@dataclass(slots=True)
class Times:
    """Where the workers' time went, all of them together."""

    decode_s: float = 0.0
    infer_s: float = 0.0


@dataclass(slots=True)
class _Known:
    """What this process keeps of a chunk while a worker has it."""

    scored: Future[Scored]
    truths: list[str | None]
    last_id: str | None


@dataclass
class Run:
    """One run over all inputs, beginning behind those that `ledger` has rows for."""

    ledger: Ledger
    tally: Tally
    on_rows: Callable[[int], None] = lambda _count: None
    times: Times = field(default_factory=Times)
    stopped: bool = False
    _last_id: str | None = None

    def stop(self) -> None:
        """Begin nothing more: for signal handlers, which an exception would let break in anywhere."""
        self.stopped = True

    def score(self, inputs: Iterator[Input], task: Task, workers: int) -> None:
        """Score everything, unless stopped; what is done is committed however this ends.

        Raises `StartupError` and `InvalidSource`.
        """
        self._pass_over(inputs)
        context = multiprocessing.get_context("spawn")  # forked engines don't work
        pool = ProcessPoolExecutor(workers, context, initializer=start, initargs=(task,))
        try:
            self._score(pool, chunks(inputs, self.ledger.rows), workers * CHUNKS_PER_WORKER)
        except BrokenProcessPool as exc:
            raise StartupError(
                "A worker process died, perhaps for want of memory. What is done is kept; run the same command again."
            ) from exc
        finally:
            pool.shutdown(cancel_futures=True)
            self._commit()

    def _pass_over(self, inputs: Iterator[Input]) -> None:
        """Skip what has its rows already, without reading it; raises `StartupError` when the inputs have changed."""
        if not self.ledger.rows:
            return
        self.tally.restore(self.ledger.kept["tally"])
        self._last_id = self.ledger.kept["last_id"]
        last = next(itertools.islice(inputs, self.ledger.rows - 1, None), None)
        if last is None or last.id != self._last_id:
            raise StartupError(
                "The inputs have changed since the run was interrupted; delete the .partial files to start afresh."
            )

    def _score(self, pool: ProcessPoolExecutor, to_do: Iterator[tuple[Chunk, list[str | None]]], most: int) -> None:
        under_way: deque[_Known] = deque()
        committed = time.monotonic()
        for chunk, truths in to_do:
            if self.stopped:
                return
            under_way.append(_Known(pool.submit(score, chunk), truths, chunk.ids[-1]))
            if len(under_way) == most:
                self._take(under_way.popleft())
            if time.monotonic() - committed > COMMIT_S:
                self._commit()
                committed = time.monotonic()
        while under_way and not self.stopped:
            self._take(under_way.popleft())

    def _take(self, known: _Known) -> None:
        scored = known.scored.result()
        self.ledger.append(scored.rows, len(known.truths))
        self.tally.add(scored.predictions, known.truths)
        self._last_id = known.last_id
        self.times.decode_s += scored.decode_s
        self.times.infer_s += scored.infer_s
        self.on_rows(len(known.truths))

    def _commit(self) -> None:
        self.ledger.commit({"tally": self.tally.record(), "last_id": self._last_id})


def chunks(inputs: Iterator[Input], first: int) -> Iterator[tuple[Chunk, list[str | None]]]:
    """Inputs in groups that depend on nothing else, with their true labels; `first` is the first one's index."""
    chunk, truths, size = Chunk(first), list[str | None](), 0
    for each in inputs:
        content = each.content()
        chunk.ids.append(each.id)
        chunk.contents.append(content)
        truths.append(each.truth)
        size += content.nbytes if isinstance(content, np.ndarray) else len(content) if isinstance(content, bytes) else 0
        if len(truths) == CHUNK_INPUTS or size >= CHUNK_BYTES:
            yield chunk, truths
            chunk, truths, size = Chunk(chunk.first + len(truths)), [], 0
    if truths:
        yield chunk, truths
