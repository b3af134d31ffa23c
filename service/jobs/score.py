"""Inputs → chunks → workers → rows in the inputs' order, committed as they come; resumable at any moment.

Where the workers are is an `Engine`'s business: `processes` has them on this machine, `service/cluster` on a cluster.
"""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from service.cores import gpus, may_use_gpu, usable_cores
from service.errors import StartupError
from service.jobs.inputs import Input
from service.jobs.ledger import Ledger
from service.jobs.scoring import Chunk, Scored, Task, score, start
from service.jobs.tally import Tally

CHUNK_INPUTS = 256
CHUNK_BYTES = 32 << 20  # of contents, since chunks wait in memory
CHUNKS_PER_WORKER = 3  # one is scored, one is ready, one waits for its turn to be written
GPU_WORKERS = 4  # one GPU is fed by so many decoding processes, each with a session of its own
COMMIT_S = 1.0
POLL_S = 0.1  # a signal does not end the waiting for a chunk


class WorkerDied(StartupError):
    """Not all of the rows can be had."""


@dataclass(slots=True)
class Part:
    """Inputs that are read one after the other; a chunk never reaches from one part into the next."""

    paths: Sequence[str]
    inputs: Iterator[Input]
    prefixed: bool = False  # ids begin with the path
    passed: int = 0  # how many of them had their rows already
    output: Path | None = None  # whose own files are no inputs


@dataclass(frozen=True, slots=True)
class Done:
    """A chunk with its rows, and what else is known of it."""

    scored: Scored
    truths: list[str | None]
    ids: list[str | None]


# Parts, the index of the first input that has no row yet, the work, workers (0: as many as pay) → the rest, in order,
# and None now and then, where the next one takes its time.
Engine = Callable[[Sequence[Part], int, Task, int], Generator[Done | None]]


@dataclass(slots=True)
class Times:
    """Where the workers' time went, all of them together."""

    decode_s: float = 0.0
    infer_s: float = 0.0


@dataclass
class Run:
    """One run over all inputs, beginning behind those that `ledger` has rows for."""

    ledger: Ledger
    tally: Tally
    on_rows: Callable[[int], None] = lambda _count: None
    times: Times = field(default_factory=Times)
    stopped: bool = False
    _order: str = field(default="", init=False)  # see `chained`, of the inputs that have rows

    def stop(self) -> None:
        """Begin nothing more: for signal handlers, which an exception would let break in anywhere."""
        self.stopped = True

    def score(self, parts: Sequence[Part], task: Task, engine: Engine, workers: int = 0) -> None:
        """Score everything, unless stopped; what is done is committed however this ends.

        Raises `StartupError` and `InvalidSource`.
        """
        self._pass_over(parts)
        committed, results = time.monotonic(), engine(parts, self.ledger.rows, task, workers)
        try:
            for done in results:
                if done:
                    self._take(done)
                if self.stopped:
                    return
                if time.monotonic() - committed > COMMIT_S:
                    self.ledger.commit()
                    committed = time.monotonic()
        except WorkerDied:
            if not self.stopped:  # else what stops this run, `timeout` for instance, ended its workers, too
                raise
        finally:
            results.close()
            self.ledger.commit()

    def _pass_over(self, parts: Sequence[Part]) -> None:
        """Skip what has its rows already, without reading it; raises `StartupError` when the inputs have changed."""
        if not self.ledger.rows:
            return
        self.tally.restore(self.ledger.kept["tally"])
        left = self.ledger.rows
        for part in parts:
            for each in itertools.islice(part.inputs, left):
                self._order = chained(self._order, [each.id])
                part.passed += 1
            left -= part.passed
        if left or self._order != self.ledger.kept.get("order"):
            raise StartupError(
                "The inputs have changed since the run was interrupted, or another version of Convoy began it; "
                "delete the .partial files to start afresh."
            )

    def _take(self, done: Done) -> None:
        self.tally.add(done.scored.predictions, done.truths)
        self._order = chained(self._order, done.ids)
        kept = {"tally": self.tally.record(), "order": self._order}
        self.ledger.append(done.scored.rows, len(done.truths), kept)
        self.times.decode_s += done.scored.decode_s
        self.times.infer_s += done.scored.infer_s
        self.on_rows(len(done.truths))


def chained(order: str, ids: Iterable[str | None]) -> str:
    """A digest of all ids so far, from that of the earlier ones: other inputs, or others' order, have another one."""
    for id_ in ids:
        order = hashlib.blake2b(repr((order, id_)).encode(), digest_size=16).hexdigest()
    return order


def processes(parts: Sequence[Part], first: int, task: Task, workers: int) -> Generator[Done | None]:
    """The engine on this machine: worker processes, fed by this one."""
    gpu = may_use_gpu(task.settings.device)
    workers = workers or (min(GPU_WORKERS * max(1, gpus()), usable_cores()) if gpu else usable_cores())
    task = task.sized(threads=max(1, usable_cores() // workers), gpu=gpu)
    context = multiprocessing.get_context("spawn")  # forked engines don't work
    stop_here, stop_there = context.Pipe(duplex=False)
    numbers = context.SimpleQueue()
    for number in range(workers):
        numbers.put(number)
    pool = ProcessPoolExecutor(workers, context, initializer=start, initargs=(task, stop_here, numbers))
    under_way: deque[tuple[Future[Scored], list[str | None], list[str | None]]] = deque()
    try:
        for chunk, truths in chunks(parts, first):
            with _no_interrupts():
                under_way.append((pool.submit(score, chunk), truths, chunk.ids))
            yield None
            if len(under_way) == workers * CHUNKS_PER_WORKER:
                yield from _awaited(*under_way.popleft())
        while under_way:
            yield from _awaited(*under_way.popleft())
    except BrokenProcessPool as exc:
        raise WorkerDied(
            "A worker process died, perhaps for want of memory. What is done is kept; run the same command again."
        ) from exc
    finally:
        stop_there.close()  # what is under way is wanted no more
        pool.shutdown(cancel_futures=True)
        stop_here.close()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Ctrl-C waits, and passes by the processes that start meanwhile: they are to end when this one says so."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _awaited(scored: Future[Scored], truths: list[str | None], ids: list[str | None]) -> Iterator[Done | None]:
    while not wait([scored], POLL_S).done:
        yield None
    yield Done(scored.result(), truths, ids)


def chunks(parts: Sequence[Part], first: int) -> Iterator[tuple[Chunk, list[str | None]]]:
    """Inputs in groups that depend on nothing else, with their true labels; `first` is the first one's index."""
    for part in parts:
        chunk, truths, size = Chunk(first), list[str | None](), 0
        for each in part.inputs:
            content = each.read if each.anywhere else each.content()
            chunk.ids.append(each.id)
            chunk.contents.append(content)
            truths.append(each.truth)
            size += _nbytes(content)
            if len(truths) == CHUNK_INPUTS or size >= CHUNK_BYTES:
                yield chunk, truths
                first += len(truths)
                chunk, truths, size = Chunk(first), [], 0
        if truths:
            yield chunk, truths
            first += len(truths)


def _nbytes(content: object) -> int:
    """What waits in memory: nothing of what is read only where it is scored, or can't be read."""
    return len(content) if isinstance(content, bytes) else getattr(content, "nbytes", 0)
