"""Under load: a worker is killed, a model is replaced, the service is restarted. Nobody notices who need not."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

from service.bench.load import Load, Outcome, Target
from service.bench.requests import Head, post
from tests.conftest import encode, picture, write_colour_model
from tests.processes import WORKERS, Convoy, running

CONNECTIONS = 16
SECONDS = 60.0  # of load, if it is not ended before
REQUEST = post(encode(picture("red")), "image/png", Head("test"))


def answered(port: int) -> float:
    """How many requests the service has counted as answered with 200."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        text = response.read().decode()
    found = re.search(r'convoy_requests_total{route="/v1/predict",method="POST",status="200"} (\d+)', text)
    assert found, text
    return float(found[1])


def under_load(port: int, play: Callable[[Load], Awaitable[None]]) -> Outcome:
    """What became of the requests while `play` did its worst."""

    async def scenario() -> Outcome:
        load = Load(Target("127.0.0.1", port), [REQUEST], 1, CONNECTIONS)
        over = asyncio.Event()
        loading = asyncio.create_task(load.closed(SECONDS, lambda _outcome: None, over))
        await more(load)
        await play(load)
        await more(load)
        over.set()
        return await loading

    return asyncio.run(scenario())


async def more(load: Load, count: int = 200) -> None:
    """Until so many more requests have been answered."""
    enough = load.outcome.answered + count
    async with asyncio.timeout(30):
        while load.outcome.answered < enough:
            await asyncio.sleep(0.01)


def test_a_killed_worker_takes_nothing_with_it_but_what_it_was_doing(models_dir: Path) -> None:
    with running(models_dir) as convoy:

        async def play(load: Load) -> None:
            victim = convoy.workers()[0]
            os.kill(victim, signal.SIGKILL)
            await asyncio.to_thread(convoy.wait_for, f"worker {victim} ended")
            await more(load)

        outcome = under_load(convoy.port, play)
        assert set(outcome.statuses) <= {200, 0}
        lost = outcome.statuses[0]
        assert lost <= CONNECTIONS // WORKERS
        assert outcome.statuses[200] <= answered(convoy.port) <= outcome.statuses[200] + lost


def test_a_model_is_replaced_without_a_failed_request(models_dir: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(models_dir, tmp_path / "models"))
    with running(root) as convoy:

        async def play(_load: Load) -> None:
            write_colour_model(root / "colours" / "3", scale=0.03)
            convoy.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(convoy.wait_for, "models are up to date", WORKERS)

        outcome = under_load(convoy.port, play)
        assert set(outcome.statuses) == {200}
        assert answered(convoy.port) == outcome.statuses[200]


def test_a_restart_fails_no_request(models_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = {"port": str(port), "lame_duck_ms": "500"}
    with running(models_dir, **settings) as first:
        second: list[Convoy] = []

        async def play(_load: Load) -> None:
            assert await asyncio.to_thread(first.stop) == 0
            second.append(await asyncio.to_thread(Convoy, models_dir, **settings))

        try:
            outcome = under_load(port, play)
        finally:
            for convoy in second:
                convoy.close()
    assert set(outcome.statuses) == {200}
