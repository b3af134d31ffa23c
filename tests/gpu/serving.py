"""The whole service over loopback: `convoy serve` in its own processes, under the load of `convoy bench`'s parts."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import re
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import uvloop

from service.bench import requests
from service.bench.load import Load, Outcome, Target
from service.cores import usable_cores
from tests.gpu.report import Row, at_least, at_most, holds
from tests.gpu.steps import ROOT, Options
from tests.gpu.subject import Context, generated, gpu_memory_mib, model_folder

PICTURE = ROOT / "service" / "web" / "example.png"
WORKERS = (1, 2, 4, 8, 12)
SMALL_BULK = 64
UNDER_WAY = 3  # bulk requests for each worker: a queue of 4,096 images has room for four, and refuses more
BULK, BULK_GOAL, SINGLE_GOAL, P50_MS_GOAL, FIRST_GOAL = 1024, 300_000, 40_000, 1.0, 2.0
PLATEAU = 1.02  # times what was held at half time
SIZES = (1, 3, 8, 20, 32, 100, 128, 400, 512, 777, 1024)  # of changing batches
WARM_UP_S = 1.0
Kind = Literal["bulk", "single"]


class Served(NamedTuple):
    """A running server."""

    target: Target
    process: int

    def workers(self) -> list[int]:
        """Process ids of its workers; its own where it has none."""
        text = Path(f"/proc/{self.process}/task/{self.process}/children").read_text()
        return [int(pid) for pid in text.split()] or [self.process]


@contextmanager
def server(context: Context, workers: int, *, device: str | None = None, **environment: str) -> Iterator[Served]:
    """`convoy serve` with the model under test; raises `ChildProcessError` with its last words if it does not start."""
    folder, log = model_folder(context), context.work / "server.log"
    settings = {
        "host": "127.0.0.1", "port": 0, "workers": workers, "device": device or context.device,
        "models_dir": folder.parent.parent, "default_model": folder.parent.name, "jobs_dir": context.work / "jobs",
    }  # fmt: skip
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", *(f"--{k.replace('_', '-')}={v}" for k, v in settings.items())],
            stdout=subprocess.PIPE, stderr=stream, text=True, env=os.environ | environment,
        )  # fmt: skip
        try:
            assert process.stdout
            address = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
            if not address:
                process.wait(60)
                raise ChildProcessError(log.read_text().strip().rpartition("\n")[2])
            yield Served(Target("127.0.0.1", int(address[1])), process.pid)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


@dataclass(frozen=True)
class Plan:
    """What one load generator does."""

    target: Target
    kind: Kind
    connections: int
    seconds: float
    images: int = BULK


def generate(plan: Plan) -> tuple[int, int, float, array[float]]:
    """One process's load: requests answered with 200, others, seconds, latencies of the former."""
    head = requests.Head(f"{plan.target.host}:{plan.target.port}")
    if plan.kind == "bulk":
        stream = io.BytesIO()
        np.save(stream, generated(plan.images))
        bodies = [requests.post(stream.getvalue(), "application/x-npy", head, accept="application/x-npy")]
    else:
        bodies = requests.single(requests.resized(requests.read_images(PICTURE), 32), head)
    load = Load(plan.target, bodies, plan.images if plan.kind == "bulk" else 1, plan.connections)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome: Outcome = runner.run(load.closed(plan.seconds, lambda _outcome: None))
    good = outcome.statuses[200]
    return good, outcome.answered - good, outcome.seconds, outcome.latencies_s


class Result(NamedTuple):
    """What several load generators came to together."""

    per_second: float  # requests answered with 200
    other: int  # answers with another status, or none
    latencies_s: np.ndarray


def loaded(plan: Plan, generators: int) -> Result:
    """`generators` processes with the plan's connections each, after a second of the same to warm up."""
    with ProcessPoolExecutor(generators, mp_context=get_context("spawn")) as pool:  # CUDA does not survive a fork
        list(pool.map(generate, [replace(plan, seconds=WARM_UP_S)] * generators))
        results = list(pool.map(generate, [plan] * generators))
    return Result(
        sum(good / seconds for good, _, seconds, _ in results),
        sum(other for _, other, _, _ in results),
        np.concatenate([np.asarray(latencies) for *_, latencies in results]),
    )


def bulk(context: Context) -> Iterator[Row]:
    """Arrays of 1,024 images."""
    return _scaled(context, "bulk", SMALL_BULK if _little(context) else BULK, BULK_GOAL)


def single(context: Context) -> Iterator[Row]:
    """One small JPEG per request."""
    return _scaled(context, "single", 1, SINGLE_GOAL)


def _scaled(context: Context, kind: Kind, images: int, goal: float) -> Iterator[Row]:
    small, cores, best = _little(context), usable_cores(), 0.0
    for workers in WORKERS[:2] if small else WORKERS:
        generators, connections = (1, 2 if kind == "bulk" else 16) if small else load(kind, workers, cores)
        with server(context, workers) as served:
            result = loaded(Plan(served.target, kind, connections, 2.0 if small else 6.0, images), generators)
        rate, best = result.per_second * images, max(best, result.per_second * images)
        p50, p99 = 1000 * np.percentile(result.latencies_s, (50, 99)) if len(result.latencies_s) else (0.0, 0.0)
        note = f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, {generators} × {connections} connections"
        yield Row(f"{workers} workers", rate, "images/s" if kind == "bulk" else "requests/s", note=note)
        yield holds(f"{workers} workers: every answer is 200", not result.other, note=f"{result.other} are not")
    unit = "images/s" if kind == "bulk" else "requests/s"
    yield at_least(goal, "the most", best, unit) if not small else Row("the most", best, unit, note="no goal here")


def load(kind: Kind, workers: int, cores: int) -> tuple[int, int]:
    """How many load generators keep so many workers busy, and with how many connections each."""
    generators = max(2, min(6, cores - workers))
    if kind == "single":
        return generators, 32
    generators = min(generators, UNDER_WAY * workers)
    return generators, UNDER_WAY * workers // generators


def latency(context: Context) -> Iterator[Row]:
    """One connection, one small JPEG at a time."""
    with server(context, 1) as served:
        result = loaded(Plan(served.target, "single", 1, 1.0 if context.options.small else 5.0), 1)
    p50, p99 = 1000 * np.percentile(result.latencies_s, (50, 99))
    row = at_most(P50_MS_GOAL, "p50", p50, "ms")
    yield row if context.device == "cuda" else Row("p50", p50, "ms", note="no goal on the CPU")
    yield Row("p99", p99, "ms")


def first(context: Context) -> Iterator[Row]:
    """The first requests after the server said that it is ready, each against how long its like takes later."""
    with server(context, 1) as served:
        cold = {size: _latencies(served.target, size, 1)[0] for size in (1, SMALL_BULK if _little(context) else BULK)}
        for size, seconds in cold.items():
            steady = float(np.percentile(_latencies(served.target, size, 30 if _little(context) else 200), 99))
            note = f"{1000 * seconds:.2f} ms, and p99 {1000 * steady:.2f} ms"
            if _little(context):
                yield Row(f"first of {size} over steady p99", seconds / steady, "×", note=note)
            else:
                yield at_most(FIRST_GOAL, f"first of {size} over steady p99", seconds / steady, "×", note=note)


def _little(context: Context) -> bool:
    """Whether this is to see that it runs, rather than how fast."""
    return context.options.small or context.device == "cpu"


def _latencies(target: Target, size: int, times: int) -> list[float]:
    """Seconds of requests one after the other on a connection that is open."""
    return asyncio.run(_one_by_one(target, size, times))


async def _one_by_one(target: Target, size: int, times: int) -> list[float]:
    stream = io.BytesIO()
    np.save(stream, generated(size))
    head = requests.Head(f"{target.host}:{target.port}")
    body = requests.post(stream.getvalue(), "application/x-npy", head, accept="application/x-npy")
    reader, writer = await asyncio.open_connection(target.host, target.port)
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        writer.write(body)
        answered = await reader.readuntil(b"\r\n\r\n")
        if not answered.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(answered.decode("latin-1"))
        await reader.readexactly(int(re.findall(rb"content-length: (\d+)", answered, re.IGNORECASE)[0]))
        seconds.append(time.perf_counter() - began)
    writer.close()
    return seconds


def memory(context: Context) -> Iterator[Row]:
    """Batches of changing sizes; from half time on nothing may grow."""
    seconds = 6.0 if context.options.small else 60 * context.options.memory_minutes
    with server(context, 1) as served:
        halves: list[tuple[float, float | None]] = []
        for _ in range(2):
            end = time.monotonic() + seconds / 2
            for size in itertools.cycle(SIZES[:5] if _little(context) else SIZES):
                _latencies(served.target, size, 5)
                if time.monotonic() > end:
                    break
            halves.append((sum(map(_resident_mib, served.workers())), gpu_memory_mib()))
    (ram, gpu), (ram_later, gpu_later) = halves
    less = "" if seconds >= 60 * Options.memory_minutes else f"{Options.memory_minutes:g} where there is time for them"
    yield Row("batches of changing sizes for", seconds / 60, "minutes", note=less)
    note = f"{ram:,.0f} → {ram_later:,.0f} MiB, at {seconds / 120:.1f} and {seconds / 60:.1f} minutes"
    yield at_most(PLATEAU, "RAM at the end over half time", ram_later / ram, "×", note=note)
    if gpu and gpu_later:
        yield at_most(
            PLATEAU, "GPU's memory at the end over half time", gpu_later / gpu, "×", note=f"{gpu_later:,.0f} MiB"
        )
    else:
        yield Row("GPU's memory at the end over half time", "", note="skipped: there is no GPU")


def _resident_mib(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return float(found[1]) / 1024 if found else 0.0
