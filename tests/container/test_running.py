"""A container's life: ready, predicting, told to stop at every moment, and its batches after it."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from service.bench.load import Load, Outcome, Target
from service.bench.requests import Head, post
from service.command import EXAMPLE
from tests.conftest import encode, picture, write_colour_model
from tests.container.containers import Container, docker, free_port, running, until

CONNECTIONS = 16
KILLED, TERMINATED = 137, 143
UNWATCHED = "--no-healthcheck"  # Docker would start a Python in it every half second


def test_it_becomes_healthy_and_predicts(container: Container) -> None:
    (prediction,) = container.request("/v1/predict", EXAMPLE.read_bytes())["predictions"]
    assert prediction["label"] == "ship"
    assert "Failed" not in container.log
    assert '"error"' not in container.log


def test_it_speaks_grpc_where_it_is_given_a_port(container: Container, grpc_port: int) -> None:
    picture_of_a_ship = np.array([EXAMPLE.read_bytes()], np.object_)
    asked = triton.InferInput("image", [1], "BYTES")
    asked.set_data_from_numpy(picture_of_a_ship)
    best = [triton.InferRequestedOutput("probabilities", class_count=1)]
    assert container.state["Running"], container.log
    with triton.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
        ((answer,),) = client.infer("cifar10", [asked], outputs=best).as_numpy("probabilities")
    assert answer.decode().endswith(":8:ship")


def test_a_volume_takes_the_place_of_the_models(image: str, tmp_path: Path) -> None:
    write_colour_model(tmp_path / "colours" / "1")
    for place in (tmp_path, *tmp_path.rglob("*")):
        place.chmod(0o755)
    models = ("--volume", f"{tmp_path}:/models:ro", "--env", "CONVOY_DEFAULT_MODEL=colours")
    with running(image, UNWATCHED, *models) as container:
        container.wait_until_ready()
        (prediction,) = container.request("/v1/predict", encode(picture("red")))["predictions"]
        assert prediction["label"] == "red"


def test_without_its_model_it_ends_with_one_sentence(image: str) -> None:
    with running(image, UNWATCHED, "--env", "CONVOY_DEFAULT_MODEL=none") as container:
        assert docker("wait", container.id).strip() == "1"
        assert "convoy: The default model none can't be served" in container.log


async def answered(load: Load, count: int) -> None:
    """Until so many more requests have been."""
    enough = load.outcome.answered + count
    async with asyncio.timeout(60):
        while load.outcome.answered < enough:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_under_load_fails_no_request(image: str, workers: str) -> None:
    port = free_port()
    graceful = (UNWATCHED, "--env", "CONVOY_LAME_DUCK_MS=500", "--env", f"CONVOY_WORKERS={workers}")

    async def scenario(first: Container) -> tuple[int, Outcome]:
        load = Load(Target("127.0.0.1", port), [post(EXAMPLE.read_bytes(), "image/png", Head("test"))], 1, CONNECTIONS)
        over = asyncio.Event()
        loading = asyncio.create_task(load.closed(120, lambda _outcome: None, over))
        await answered(load, 100)
        status = await asyncio.to_thread(first.stop)
        with running(image, *graceful, port=port) as second:
            await asyncio.to_thread(second.wait_until_ready)
            await answered(load, load.outcome.answered + 100)
            over.set()
            return status, await loading

    with running(image, *graceful, port=port) as first:
        first.wait_until_ready()
        status, outcome = asyncio.run(scenario(first))
    assert status == 0
    assert set(outcome.statuses) == {200}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_during_the_start_ends_it(image: str, workers: str) -> None:
    """As process 1, a program that has not set a handler yet does not even notice."""
    with running(image, "--env", f"CONVOY_WORKERS={workers}") as container:
        assert container.stop() in (0, TERMINATED)


ORPHAN = "import os, sys; os.fork() and sys.exit(); os.fork() and os._exit(0); os._exit(0)"
ZOMBIES = """
import pathlib
print(sum(path.read_text().rpartition(')')[2].split()[0] == 'Z' for path in pathlib.Path('/proc').glob('[0-9]*/stat')))
"""


def test_orphans_leave_no_zombies(container: Container) -> None:
    for _ in range(3):
        container.python(ORPHAN)
    until(lambda: container.python(ZOMBIES).strip() == "0")


@pytest.fixture
def volume(image: str) -> Iterator[str]:  # noqa: ARG001 - there is a Docker where there is an image
    name = docker("volume", "create").strip()
    yield name
    docker("volume", "rm", "--force", name)


def test_a_batch_outlives_its_container(image: str, volume: str) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(EXAMPLE, "ship.png")
    with running(image, UNWATCHED, "--volume", f"{volume}:/jobs") as first:
        first.wait_until_ready()
        batch = first.request("/v1/batches", archive.getvalue(), "application/x-tar")["id"]
        assert first.stop() == 0
    with running(image, UNWATCHED, "--volume", f"{volume}:/jobs") as second:
        second.wait_until_ready()
        until(lambda: second.request(f"/v1/batches/{batch}")["status"] == "succeeded")
        row = second.request(f"/v1/batches/{batch}/results")
        assert (row["id"], row["label"]) == ("ship.png", "ship")
