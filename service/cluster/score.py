"""Parts → a task that reads each → actors that score → rows in the inputs' order: a Ray Data pipeline.

It is an `Engine` like `processes`, with the same sources, chunks, scorer and ledger: its rows are the same to the byte,
and a run that was begun with the one goes on with the other. Ray starts the tasks and actors of dead nodes elsewhere,
and makes anew what was lost with them. The model travels with the work; inputs are read where the work is, so their
paths must lead to the same files on every node.
"""

from __future__ import annotations

import logging
import socket
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError

from service.errors import ServiceError, StartupError
from service.jobs.inputs import Input, Limits
from service.jobs.score import GPU_WORKERS, POLL_S, Done, Engine, Part, chunks
from service.jobs.scoring import Chunk, Scorer, Task
from service.jobs.sources.files import open_path

CONNECT_S = 5.0
TELL_S = 15.0  # without a row, until it is said where to look: starting the actors takes a few seconds
AHEAD = 2  # chunks that have come and are not taken yet
STOP_S = 5.0  # for the chunk that is awaited when nobody wants more: once Ray is shut down, to ask starts it again
logger = logging.getLogger(__name__)
COLUMN = "item"  # of each row, which holds one object; the name is that of `from_items`


@dataclass(frozen=True, slots=True)
class Unread:
    """A part on its way to where it is read."""

    paths: Sequence[str]  # as they were given, with which ids may begin
    absolute: Sequence[str]
    prefixed: bool
    passed: int
    output: Path | None
    limits: Limits

    def inputs(self) -> Iterator[Input]:
        """What has no rows yet."""
        opened = (open_path(path, self.limits, self.output) for path in self.absolute)
        found = (
            each
            for path, one in zip(self.paths, opened, strict=True)
            for each in one.inputs_of(path if self.prefixed else None)
        )
        return islice(found, self.passed, None)


@dataclass(frozen=True, slots=True)
class Read:
    """A chunk, its indices counted within its part; or why there are no more."""

    chunk: Chunk | ServiceError
    truths: list[str | None]


Outcome = Done | ServiceError | StartupError


def engine(address: str | None) -> Engine:
    """The engine on the cluster at `address`, or else where RAY_ADDRESS says, or else the one that runs here."""
    return partial(_score, address=address)


def _score(
    parts: Sequence[Part], first: int, task: Task, workers: int, *, address: str | None
) -> Generator[Done | None]:
    with _connected(address):
        resources = ray.cluster_resources()
        gpu = task.settings.device != "cpu" and resources.get("GPU", 0) > 0
        workers = workers or max(1, int(resources["GPU"] * GPU_WORKERS if gpu else resources.get("CPU", 1)))
        limits = Limits(task.settings.max_image_bytes)
        unread = [
            Unread(
                part.paths, [_absolute(path) for path in part.paths], part.prefixed, part.passed, part.output, limits
            )
            for part in parts
        ]
        dataset = pipeline(unread, task.sized(threads=1, gpu=gpu), workers, num_gpus=1 / GPU_WORKERS if gpu else 0)
        yield from _numbered(_awaited(row[COLUMN] for row in dataset.iter_rows()), first)


def pipeline(parts: Sequence[Unread], task: Task, workers: int, *, num_gpus: float) -> Dataset:
    """The `Outcome` of every chunk, in order."""
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False  # the command has its own
    context.target_max_block_size = 1  # each chunk a block of its own: a block goes to one actor as a whole
    files = {path.name: path.read_bytes() for path in task.folder.iterdir() if path.is_file()}
    return (
        ray.data.from_items(parts, override_num_blocks=len(parts))
        .flat_map(_read, num_cpus=0)  # hardly any work, and it must not wait for a core that an actor has
        .map(
            Actor,
            fn_constructor_args=(task, files),
            compute=ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
            num_cpus=1,
            num_gpus=num_gpus,
        )
    )


def _read(row: dict[str, Unread]) -> Iterator[dict[str, Read]]:
    """A part's chunks."""
    try:
        for chunk, truths in chunks([Part(row[COLUMN].paths, row[COLUMN].inputs())], 0):
            yield {COLUMN: Read(chunk, truths)}
    except ServiceError as exc:
        yield {COLUMN: Read(exc, [])}  # in its turn: what was read before is still scored


class Actor:
    """A worker with an engine of its own."""

    def __init__(self, task: Task, files: dict[str, bytes]) -> None:
        """`files` are those of the model, by their names."""
        logging.getLogger("service").setLevel(logging.ERROR)  # every worker would have the same to say
        self._scorer: Scorer | StartupError
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root, task.folder.parent.name, task.folder.name)
            folder.mkdir(parents=True)
            for name, content in files.items():
                (folder / name).write_bytes(content)
            try:
                self._scorer = Scorer(replace(task, folder=folder))
            except StartupError as exc:
                self._scorer = exc

    def __call__(self, row: dict[str, Read]) -> dict[str, Outcome]:
        """Score a chunk."""
        return {COLUMN: self._outcome(row[COLUMN])}

    def _outcome(self, read: Read) -> Outcome:
        if isinstance(read.chunk, ServiceError):
            return read.chunk
        if isinstance(self._scorer, StartupError):
            return self._scorer
        try:
            return Done(self._scorer.score(read.chunk), read.truths, read.chunk.ids)
        except ServiceError as exc:
            return exc


def _awaited(outcomes: Iterator[Outcome]) -> Generator[Done | None]:
    """What was scored, and None whenever nothing has come for a while; raises what is no `Done`.

    Ray's own iterator takes no notice of signals, and waits for good while a cluster has no free core.
    """
    arrived: Queue[Outcome | Exception | None] = Queue(AHEAD)  # None: there are no more
    nobody_waits = Event()

    def put(outcome: Outcome | Exception | None) -> None:
        while not nobody_waits.is_set():
            try:
                arrived.put(outcome, timeout=POLL_S)
            except Full:
                continue
            return

    def fetch() -> None:
        try:
            for outcome in takewhile(lambda _: not nobody_waits.is_set(), outcomes):
                put(outcome)
            put(None)
        except Exception as exc:  # it is raised where they are awaited
            put(exc)

    fetching = Thread(target=fetch, name="awaited", daemon=True)
    fetching.start()
    to_tell: float | None = time.monotonic() + TELL_S
    try:
        while True:
            try:
                outcome = arrived.get(timeout=POLL_S)
            except Empty:
                if to_tell and time.monotonic() > to_tell:
                    logger.warning("nothing is scored yet; `ray status` tells whether the cluster has free cores")
                    to_tell = None
                yield None
                continue
            if outcome is None:
                return
            if isinstance(outcome, Exception):
                raise outcome
            to_tell = None
            yield outcome
    finally:
        nobody_waits.set()
        fetching.join(STOP_S)


def _numbered(chunks_done: Iterable[Done | None], first: int) -> Generator[Done | None]:
    """Chunks whose rows have the indices that they have among all inputs."""
    for done in chunks_done:
        if done is None:
            yield None
            continue
        lines = enumerate(done.scored.rows.splitlines(keepends=True), first)
        rows = b"".join(b'{"index":%d%b' % (index, line[line.index(b",") :]) for index, line in lines)
        yield replace(done, scored=replace(done.scored, rows=rows))
        first += len(done.truths)


def _absolute(path: str) -> str:
    """The path as it is on any node: they don't work in the folder of who gave the command."""
    return path if "://" in path else str(Path(path).absolute())


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Raises `StartupError` when the cluster can't be reached, or gives up."""
    try:
        if address and ":" in address and "://" not in address:
            host, _, port = address.rpartition(":")
            socket.create_connection((host, port), CONNECT_S).close()  # Ray itself would try for minutes
        ray.init(address or "auto", log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is raised, and told in a sentence
    except OSError as exc:  # ConnectionError among them
        raise StartupError(
            "There is no Ray cluster; name one with --address or RAY_ADDRESS, or start one with: ray start --head"
        ) from exc
    try:
        yield
    except RayError as exc:
        raise StartupError(
            f"Ray gave up ({type(exc).__name__}). What is done is kept; run the same command again."
        ) from exc
    finally:
        ray.shutdown()
