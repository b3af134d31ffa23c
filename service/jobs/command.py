"""`convoy score PATH… --output FILE`: its options, and one run from them, without a server or with one's help."""

from __future__ import annotations

import argparse
import hashlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from tqdm import tqdm

from service.cores import has_int8_dot_product, may_use_gpu
from service.errors import ServiceError, StartupError
from service.jobs.endings import account, finish, interrupted, tell_all
from service.jobs.inputs import Input, Limits
from service.jobs.ledger import Ledger
from service.jobs.results import RESULTS, Encoder, ResultFormat
from service.jobs.sources.files import Opened, open_path
from service.jobs.tally import Tally
from service.jobs.versions import chosen_folder
from service.keys import read_keys
from service.metadata import ModelMetadata
from service.settings import MOST_WORKERS, Settings, load, metavar

if TYPE_CHECKING:  # with them come the engine and all it needs, which `convoy serve`'s parent process does without
    from service.jobs.remote import RemoteRun
    from service.jobs.score import Engine, Part, Run
    from service.jobs.scoring import Task

    OpenEngine = Callable[[str | None], Engine]  # with the address given, if any

FROM_SETTINGS = ("models_dir", "device", "precision")
progress = partial(tqdm, unit=" images", dynamic_ncols=True, leave=False, disable=None)  # nothing without a terminal


def add_options(parser: argparse.ArgumentParser, engines: Mapping[str, OpenEngine]) -> None:
    """The command line's grammar; the first of `engines` works when none is chosen."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="zip, tar, NDJSON or Parquet file, folder, glob, list of paths (.txt), CIFAR-10 batches, image; or a URL",
    )
    suffixes = ", ".join(suffix for each in RESULTS.values() for suffix in each.suffixes)
    parser.add_argument(
        "--output",
        type=_own_file,
        required=True,
        metavar="FILE",
        help=f"ends in {suffixes}; one that is there already is replaced: all is scored anew",
    )
    parser.add_argument("--model", metavar="NAME", help="default: the configured one")
    parser.add_argument("--version", metavar="N", help="default: the active one, as on a server")
    parser.add_argument("--top-k", type=int, metavar="K", help="only the K most probable classes")
    parser.add_argument(
        "--coverage", type=float, metavar="P", help="add the classes that hold the true one with this probability"
    )
    parser.add_argument("--summary", action="store_true", help="print images per label, and accuracy where it is known")
    parser.add_argument("--server", metavar="URL", help="have a running server do the work")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="holds the key that the server asks for")
    first, *_ = engines
    parser.add_argument("--engine", choices=list(engines), help=f"what does it without a server (default: {first})")
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="of the Ray cluster (default: RAY_ADDRESS, or the one here)"
    )
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: as many as pay)")
    for name in FROM_SETTINGS:
        description = Settings.model_fields[name].description
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, metavar=metavar(name), help=f"{description} (default: as `serve`'s)")
    parser.set_defaults(run=partial(run, engines=engines))


def _own_file(given: str) -> Path:
    """The output's path, of which a `Path` would not show any more that it was a URL; raises `StartupError` for one."""
    if "://" in given:
        raise StartupError(f"--output {given}: the output is a file of this machine, no URL; give its path.")
    return Path(given)


def run(options: argparse.Namespace, engines: Mapping[str, OpenEngine]) -> int:
    """Score everything; the exit status: 130 when interrupted. Raises `StartupError` where nothing was scored, too."""
    try:
        return _there(options) if options.server else _here(options, engines)
    except ServiceError as exc:
        raise StartupError(exc.detail) from exc


def _here(options: argparse.Namespace, engines: Mapping[str, OpenEngine]) -> int:
    if options.api_key_file:
        raise StartupError("--api-key-file is for a server; add --server URL, or leave it out.")
    try:
        settings = load({name: value for name in FROM_SETTINGS if (value := getattr(options, name)) is not None})
        folder = chosen_folder(settings, options.model, options.version)
        metadata = ModelMetadata.read(folder)
    except (OSError, ValueError) as exc:
        raise StartupError(str(exc)) from exc
    if not 0 <= options.workers <= MOST_WORKERS:
        raise StartupError(f"--workers: ask for 1 to {MOST_WORKERS:,}, or leave it out for as many as pay.")
    if options.top_k is not None and not 1 <= options.top_k <= len(metadata.labels):
        raise StartupError(f"--top-k: the model has {len(metadata.labels)} classes; ask for 1 to that many.")
    engine = engines[options.engine or next(iter(engines))](options.address)  # which knows what must be installed
    from service.jobs.scoring import Task

    task = Task(folder, settings, options.top_k, options.coverage)
    encoder = _format(options.output).encoder(metadata.labels, options.coverage is not None)
    opened = [open_path(path, Limits(settings.max_image_bytes), options.output) for path in options.paths]
    with closing(Ledger(options.output, _fingerprint(options.paths, opened, _facts(metadata, task)))) as ledger:
        return _score(ledger, opened, task, Tally(metadata.labels, options.coverage), engine, encoder, options)


def _there(options: argparse.Namespace) -> int:
    from service.jobs.exchange import Remote
    from service.jobs.remote import RemoteRun

    if given := [name for name in (*FROM_SETTINGS, "engine", "address", "workers") if getattr(options, name)]:
        raise StartupError(f"--{given[0].replace('_', '-')} is the server's own business; leave it out with --server.")
    key = read_keys(options.api_key_file)[0] if options.api_key_file else None
    result_format, remote = _format(options.output), Remote(options.server, key)
    result_format.encoder(("any",), options.coverage is not None)  # what is missing is said before the work is done
    opened = [open_path(path, Limits(), options.output) for path in options.paths]
    asked = {name: getattr(options, name) for name in ("model", "version", "top_k", "coverage")}
    query = {name: str(value) for name, value in asked.items() if value is not None}
    ledger = Ledger(options.output, _fingerprint(options.paths, opened, [options.server, query]))
    before, began = ledger.rows, time.monotonic()
    bar = progress(initial=before)

    def on_rows(done: int, total: int | None) -> None:
        bar.total = total
        bar.update(done - bar.n)

    with closing(ledger):
        the_run = RemoteRun(remote, ledger, query, on_rows)
        _stop_on_signals(the_run)
        inputs = _inputs(zip(options.paths, opened, strict=True), len(opened) > 1)
        with closing(bar):
            labels = the_run.score(_counted(inputs))
        if the_run.stopped:
            return interrupted(ledger)
        if not labels and (options.summary or result_format is not RESULTS["ndjson"]):  # whose rows say all themselves
            raise StartupError(
                "The server does not know the classes any more: the version that answered is not loaded there. Load "
                "it, and run the same command again."
            )
        seconds = time.monotonic() - began
        summary = Tally(labels, options.coverage) if options.summary else None
        if summary:
            again = [open_path(path, Limits(), options.output) for path in options.paths]
            summary.add_rows(ledger.lines(), _inputs(zip(options.paths, again, strict=True), len(again) > 1))
        finish(ledger, result_format.encoder(labels, options.coverage is not None))
        the_run.forget()
    told = account(ledger.rows - before, seconds, ledger.rows, the_run.failed)
    return tell_all(told, summary, ledger.rows, the_run.failed)


def _format(output: Path) -> ResultFormat:
    for each in RESULTS.values():
        if output.name.endswith(each.suffixes):
            return each
    suffixes = ", ".join(suffix for each in RESULTS.values() for suffix in each.suffixes)
    raise StartupError(f"--output {output}: its ending says the format; choose one of {suffixes}.")


def _facts(metadata: ModelMetadata, task: Task) -> list[object]:
    """What decides the answers, beside the inputs: on another machine the same options may mean another file."""
    model = {precision: file.sha256 for precision, file in metadata.files.items()}
    settings = [getattr(task.settings, name) for name in ("device", "precision", "max_image_bytes", "max_image_pixels")]
    chosen_by = [may_use_gpu(task.settings.device), has_int8_dot_product()] if task.settings.precision == "auto" else []
    coverage = [] if task.coverage is None else [task.coverage]
    return [sorted(model.items()), settings, chosen_by, task.top_k, *coverage]


def _fingerprint(paths: list[str], opened: list[Opened], facts: list[object]) -> str:
    """What two runs must have in common for the one to go on with the other's rows."""
    return hashlib.sha256(repr([paths, [each.fingerprint for each in opened], facts]).encode()).hexdigest()


def _score(
    ledger: Ledger,
    opened: list[Opened],
    task: Task,
    tally: Tally,
    engine: Engine,
    encoder: Encoder,
    options: argparse.Namespace,
) -> int:
    from service.jobs.score import Run

    before, began = ledger.rows, time.monotonic()
    bar = progress(initial=before, smoothing=0.1)

    def on_rows(count: int) -> None:
        if len(opened) == 1 and (part := opened[0].progress()):
            bar.total = max(round(ledger.rows / part), ledger.rows)
        bar.update(count)

    the_run = Run(ledger, tally, on_rows)
    _stop_on_signals(the_run)
    try:
        the_run.score(_parts(options.paths, opened, options.output.absolute()), task, engine, options.workers)
    finally:
        bar.close()
    if the_run.stopped:
        return interrupted(ledger)
    finish(ledger, encoder)
    seconds, images = time.monotonic() - began, ledger.rows - before
    busy = the_run.times.decode_s + the_run.times.infer_s or 1.0
    told = (
        f"{account(images, seconds, ledger.rows, tally.failed)}; of the workers' time "
        f"{the_run.times.infer_s / busy:.0%} was inference, {the_run.times.decode_s / busy:.0%} reading and decoding"
    )
    return tell_all(told, tally if options.summary else None, ledger.rows, tally.failed)


def _stop_on_signals(the_run: Run | RemoteRun) -> None:
    def stop(number: int, _frame: FrameType | None) -> None:
        the_run.stop()
        signal.signal(number, signal.SIG_DFL)  # who asks again will not wait

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _parts(paths: list[str], opened: list[Opened], output: Path) -> list[Part]:
    """All inputs in order: what holds many is a part of its own, images that follow each other are one together."""
    from service.jobs.score import Part

    parts: list[Part] = []
    for alone, pairs in groupby(zip(paths, opened, strict=True), lambda pair: pair[1].alone):
        group = list(pairs)
        for part in [group] if alone else ([pair] for pair in group):
            parts.append(Part([path for path, _ in part], _inputs(part, len(paths) > 1), len(paths) > 1, output=output))
    return parts


def _counted(inputs: Iterator[Input]) -> Iterator[Input]:
    """The same with a bar of its own, from the first one on: a run that goes on has sent them all."""
    with progress(desc="sent") as bar:
        for each in inputs:
            yield each
            bar.update()


def _inputs(pairs: Iterable[tuple[str, Opened]], prefixed: bool) -> Iterator[Input]:
    return chain.from_iterable(opened.inputs_of(path if prefixed else None) for path, opened in pairs)
