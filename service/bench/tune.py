"""`convoy tune`: this machine and a latency target → the settings that serve the most within it.

Every candidate is a real server under a real closed loop; its connections are doubled as long as the 99th percentile
stays within the target. First workers and threads are chosen, then the queue delay that goes with them.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from service.bench import bounds, report, requests
from service.bench.load import Load, Outcome, Target, Unreachable
from service.cores import usable_cores
from service.errors import StartupError
from service.streams import say

DELAYS_MS = (0.0, 1.0, 2.0, 5.0)
MOST_CONNECTIONS = 512  # 1024 is how many open files a process may usually have
STOP_TIMEOUT_S = 30


@dataclass(frozen=True)
class Candidate:
    """The settings that are tried."""

    workers: int
    threads: int
    max_queue_delay_ms: float = 0.0

    def variables(self) -> dict[str, str]:
        """As `convoy serve` reads them from the environment or from --settings."""
        return {f"CONVOY_{name.upper()}": f"{value:g}" for name, value in vars(self).items()}


@dataclass(frozen=True)
class Result:
    """The most a candidate gave within the target."""

    candidate: Candidate
    connections: int = 0
    images_per_second: float = 0.0  # 0: not even one connection was answered in time
    p99_ms: float = 0.0


Measure = Callable[[int], Outcome]  # connections → what came of them


def candidates(cores: int) -> list[Candidate]:
    """Every way to share the cores out evenly."""
    return [Candidate(workers, cores // workers) for workers in range(1, cores + 1) if cores % workers == 0]


def best(candidate: Candidate, measure: Measure, target_ms: float) -> Result:
    """The highest rate within the target, over numbers of connections that double."""
    result, connections = Result(candidate), 1
    while connections <= MOST_CONNECTIONS:
        outcome = measure(connections)
        p99_ms = 1000 * dict(report.percentiles(outcome.latencies_s, (99.0,))).get(99.0, float("inf"))
        if p99_ms > target_ms or set(outcome.statuses) - {200}:
            break
        if outcome.images_per_second > result.images_per_second:
            result = Result(candidate, connections, outcome.images_per_second, p99_ms)
        connections *= 2
    return result


def check(first: Outcome) -> None:
    """Raise `StartupError` when requests have ended, but none with 200: no setting would mend that."""
    if first.statuses and not first.statuses[200]:
        told = " and ".join(f"status {status}" if status else "no answer" for status in sorted(first.statuses))
        raise StartupError(
            f"The first requests ended with {told}, not one with 200; see why in the log above, or give other images "
            "with --image."
        )


def search(cores: int, target_ms: float, attempt: Callable[[Candidate], Result]) -> Result:
    """The best of all candidates; raises `StartupError` when none meets the target."""
    shared = max((attempt(candidate) for candidate in candidates(cores)), key=lambda result: result.images_per_second)
    if not shared.images_per_second:
        raise StartupError(f"Nothing is answered within {target_ms:g} ms here; allow more, or serve a smaller model.")
    delayed = (attempt(replace(shared.candidate, max_queue_delay_ms=delay)) for delay in DELAYS_MS[1:])
    return max([shared, *delayed], key=lambda result: result.images_per_second)


def add_options(parser: argparse.ArgumentParser, *, example: Path) -> None:
    """The command line's grammar."""
    parser.add_argument(
        "--p99-ms",
        type=bounds.fractions_of_ms,
        default=50.0,
        metavar="MS",
        help="99%% of answers within so long (default: 50)",
    )
    parser.add_argument("--image", type=Path, default=example, help="an image, or a folder (default: a drawing)")
    parser.add_argument("--size", type=bounds.pixels, metavar="PIXELS", help="resize the images to PIXELS × PIXELS")
    parser.add_argument("--seconds", type=bounds.seconds, default=3.0, metavar="S", help="per measurement (default: 3)")
    parser.add_argument("--output", type=Path, default=Path("convoy.env"), help="settings file (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Try, say what came of it, write the settings."""
    if options.output.is_dir() or not options.output.parent.is_dir():  # known now, and not when all is measured
        raise StartupError(f"--output {options.output} can't be a file: name one in a folder that is there.")
    try:
        images = requests.read_images(options.image)
        images = requests.resized(images, options.size) if options.size else images
    except ValueError as exc:
        raise StartupError(str(exc)) from exc

    def attempt(candidate: Candidate) -> Result:
        with server(candidate) as target:
            bodies = requests.single(images, requests.Head(target.authority))

            def measure(connections: int) -> Outcome:
                load = Load(target, bodies, 1, connections)
                return asyncio.run(load.closed(options.seconds, report.progress))

            check(measure(1))  # the first requests of a process are slower
            result = best(candidate, measure, options.p99_ms)
        say(_line(result))
        return result

    chosen = search(usable_cores(), options.p99_ms, attempt)
    write(chosen, options.p99_ms, options.output)
    say(f"\n{_line(chosen)}\nWritten to {options.output}. Use it: convoy serve --settings {options.output}")
    return 0


@contextmanager
def server(candidate: Candidate) -> Iterator[Target]:
    """A `convoy serve` of its own with the candidate's settings; raises `StartupError` when it does not start.

    It asks for no key, whatever the environment says: only who is on this machine can reach it.
    """
    settings = [f"--{name.replace('_', '-')}={value:g}" for name, value in vars(candidate).items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "serve", "--host=127.0.0.1", "--port=0", "--api-keys-file=", *settings],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout
        _, found, address = process.stdout.readline().partition("http://")
        if not found:
            raise StartupError("The server did not start; its reason is above.")
        yield Target.of(f"http://{address.split(' ')[0]}")
    except Unreachable as exc:
        raise StartupError(str(exc)) from exc
    finally:
        process.terminate()
        try:
            process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def write(result: Result, target_ms: float, path: Path) -> None:
    """The settings file, whole or not at all; raises `StartupError` when it can't be written."""
    lines = [
        f"# {result.images_per_second:,.0f} images/s at {result.connections} connections, "
        f"p99 {result.p99_ms:.1f} ms (target {target_ms:g} ms); found by convoy tune",
        *(f"{name}={value}" for name, value in result.candidate.variables().items()),
    ]
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as exc:
        raise StartupError(f"{path} can't be written: {exc.strerror}.") from exc


def _line(result: Result) -> str:
    c = result.candidate
    found = (
        f"{result.images_per_second:8,.0f} images/s at {result.connections:4} connections, p99 {result.p99_ms:.1f} ms"
        if result.images_per_second
        else "too slow even for one connection"
    )
    return f"workers {c.workers}  threads {c.threads}  delay {c.max_queue_delay_ms:g} ms: {found}"
