"""The service on Ray Serve under load: more replicas, a replica and a node killed, fewer replicas.

`CONVOY_TEST_REPLICAS=4 CONVOY_TEST_SECONDS=15 pytest tests/load/test_cluster_serve.py -s` runs it, on a
machine that does nothing else, and prints a table.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from service.bench.load import Load, Target
from service.bench.report import percentiles
from service.bench.requests import Head, post
from tests.cluster import LocalCluster, local_cluster, serving
from tests.conftest import encode, picture

MODELS = Path(__file__).parents[2] / "models"
REPLICAS = int(os.environ.get("CONVOY_TEST_REPLICAS", "2"))
SECONDS = float(os.environ.get("CONVOY_TEST_SECONDS", "3"))  # of load in each state
CONNECTIONS = 16 * REPLICAS  # as many as the configuration's target for all of them
REQUEST = post(encode(picture("red", (32, 32))), "image/png", Head("test"))
PATIENCE_S = 240.0
ANSWER_S = 60.0  # longer than the configuration lets a request last


@dataclass
class Table:
    """What became of the requests, state by state."""

    load: Load
    failed: dict[str, int] = field(default_factory=dict)
    _answered: int = 0
    _failed: int = 0
    _began: float = 0.0

    def begin(self) -> None:
        """Another state begins."""
        outcome = self.load.outcome
        self._answered, self._failed = len(outcome.latencies_s), outcome.answered - outcome.statuses[200]
        self._began = asyncio.get_running_loop().time()

    def end(self, state: str, replicas: int) -> None:
        """It has ended."""
        outcome, seconds = self.load.outcome, asyncio.get_running_loop().time() - self._began
        latencies = outcome.latencies_s[self._answered :]
        p99 = next((value for _, value in percentiles(latencies, (99.0,))), 0.0)
        failed = outcome.answered - outcome.statuses[200] - self._failed
        self.failed[state] = self.failed.get(state, 0) + failed
        rate = len(latencies) / seconds
        print(f"{state:20} {replicas:8}  {seconds:5.1f} s  {rate:10.1f}  {p99 * 1000:6.0f} ms  {failed:6}", flush=True)


@dataclass(frozen=True)
class Watch:
    """Which replicas have loaded their model and are alive."""

    cluster: LocalCluster
    log: Path

    @property
    def running(self) -> int:
        ready = {int(pid) for pid in re.findall(rb"ServeReplica:\S+ pid=(\d+).*serves on", self.log.read_bytes())}
        return len(ready.intersection(self.replicas()))

    def replicas(self) -> list[int]:
        """Process ids: the children of the nodes' daemons, as Ray names them."""
        found = []
        for raylet in self.cluster.nodes:
            with suppress(FileNotFoundError, ProcessLookupError):
                children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
                found += [int(pid) for pid in children if b"ServeReplica" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return found

    async def until(self, wanted: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.running != wanted:
                await asyncio.sleep(0.1)


async def scenario(watch: Watch, port: int) -> Table:
    """One replica; load, more of them, deaths; no load, one replica."""
    load = Load(Target("127.0.0.1", port), [REQUEST], 1, CONNECTIONS)
    table, over = Table(load), asyncio.Event()
    await watch.until(1)
    loading = asyncio.create_task(load.closed(PATIENCE_S * 4, lambda _outcome: None, over))
    print(f"\n{'state':20} replicas     time  requests/s        p99  failed")
    await steady(table, "load begins", watch)
    table.begin()
    await watch.until(REPLICAS)
    table.end("replicas are added", watch.running)
    await steady(table, "all there", watch)
    await death(table, "a replica killed", watch, lambda: os.kill(watch.replicas()[-1], signal.SIGKILL))
    await steady(table, "all there again", watch)
    await death(table, "a node killed", watch, lambda: watch.cluster.kill(0))
    await steady(table, "all there again", watch)
    table.begin()
    over.set()
    await asyncio.wait([loading], timeout=ANSWER_S)
    assert loading.done(), "some requests are never answered"
    table.end("load ends", watch.running)
    table.begin()
    await watch.until(1)
    table.end("no load, down again", watch.running)
    return table


async def steady(table: Table, state: str, watch: Watch) -> None:
    table.begin()
    await asyncio.sleep(SECONDS)
    table.end(state, watch.running)


async def death(table: Table, state: str, watch: Watch, kill: Callable[[], None]) -> None:
    """Until it has been noticed and made good."""
    table.begin()
    kill()
    async with asyncio.timeout(PATIENCE_S):
        while watch.running == REPLICAS:
            await asyncio.sleep(0.1)
    fewest = watch.running
    await watch.until(REPLICAS)
    table.end(state, fewest)


@pytest.mark.skipif("CONVOY_TEST_REPLICAS" not in os.environ, reason="takes minutes; set CONVOY_TEST_REPLICAS=4")
def test_replicas_come_and_go_and_their_deaths_cost_no_more_than_was_in_flight(tmp_path: Path) -> None:
    autoscaling = {"max_replicas": REPLICAS, "upscale_delay_s": 1, "downscale_delay_s": 5}
    models = tmp_path / "models"  # with no other model, which each replica would load too
    shutil.copytree(MODELS / "tutorial-cnn", models / "tutorial-cnn")
    with (
        local_cluster(0, *[1] * (REPLICAS // 2 + 1)) as cluster,  # room for all replicas when one node is gone
        serving(cluster, tmp_path, models, "tutorial-cnn", **autoscaling) as url,
    ):
        watch = Watch(cluster, tmp_path / "serve.log")
        table = asyncio.run(scenario(watch, int(url.rpartition(":")[2])))
    print(f"statuses: {dict(table.load.outcome.statuses)}")
    assert table.failed.pop("a replica killed") <= CONNECTIONS
    # What a node takes with it without a word ends when its time is over, which may be after the load.
    assert table.failed.pop("a node killed") + table.failed.pop("load ends") <= CONNECTIONS
    assert not any(table.failed.values()), table.failed
