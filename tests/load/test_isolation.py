"""Whatever some clients send, the others get their own answers: seeded traffic against real worker processes.

`CONVOY_TEST_REQUESTS=100000 pytest tests/load` is the long form.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from service.decoding import decode
from service.metadata import ModelMetadata
from tests.conftest import encode
from tests.processes import running
from training.golden import pictures
from training.onnx_graph import run_onnx

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "tutorial-cnn" / "1"
REQUESTS = int(os.environ.get("CONVOY_TEST_REQUESTS", "3000"))
CONNECTIONS = 32
SHARES = {"corrupt": 0.05, "aborted": 0.05, "wrong-shape": 0.01}  # the rest is good
TOLERANCE = 1e-4  # batches of different sizes round differently


@dataclass(frozen=True)
class Request:
    """What is sent, and what must come back."""

    kind: str
    wire: bytes
    status: int
    probabilities: dict[str, float] | None = None


def wire(body: bytes, media_type: str) -> bytes:
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: test\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@pytest.fixture(scope="module")
def good() -> list[Request]:
    """Encoded pictures with the probabilities that the ONNX file gives for them, far from any server."""
    from PIL import Image

    images = [Image.fromarray(picture) for picture in pictures(32, 32, count=200, seed=7)]
    encoded = [encode(image, "JPEG", quality=90) if i % 2 else encode(image) for i, image in enumerate(images)]
    rows = np.stack([decode(data, max_pixels=1024) for data in encoded])
    labels = ModelMetadata.read(MODEL).labels
    return [
        Request("good", wire(data, "application/octet-stream"), 200, dict(zip(labels, map(float, row), strict=True)))
        for data, row in zip(encoded, run_onnx(MODEL / "model.onnx", rows), strict=True)
    ]


def traffic(good: list[Request], count: int, seed: int) -> Iterator[Request]:
    """A seeded mixture of requests."""
    chance = random.Random(seed)
    stream = io.BytesIO()
    np.save(stream, np.zeros((2, 32, 32, 4), np.uint8))
    for _ in range(count):
        request, kind = chance.choice(good), chance.random()
        if kind < SHARES["corrupt"]:
            body = request.wire.partition(b"\r\n\r\n")[2]
            yield Request("corrupt", wire(body[: chance.randrange(1, len(body) // 2)], "image/png"), 422)
        elif kind < SHARES["corrupt"] + SHARES["aborted"]:
            yield Request("aborted", request.wire[: chance.randrange(1, len(request.wire) + 1)], 0)
        elif kind < sum(SHARES.values()):
            yield Request("wrong-shape", wire(stream.getvalue(), "application/x-npy"), 422)
        else:
            yield request


class Client:
    """One keep-alive connection's worth of traffic; counts what is wrong by kind."""

    def __init__(self, port: int, requests: Iterator[Request]) -> None:
        self._port, self._requests = port, requests
        self.right, self.wrong = Counter[str](), list[str]()

    async def run(self) -> None:
        """Send until there is nothing more to send."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        for request in self._requests:
            if request.kind == "aborted":
                await self._abort(request)
                continue
            writer.write(request.wire)
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
                self._judge(request, int(head.split()[1]), await reader.readexactly(length))
            except (asyncio.IncompleteReadError, ConnectionError) as exc:
                self.wrong.append(f"{request.kind}: no answer ({exc!r})")
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.close()

    async def _abort(self, request: Request) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(request.wire)
        await asyncio.sleep(0)
        writer.transport.abort()
        self.right["aborted"] += 1

    def _judge(self, request: Request, status: int, body: bytes) -> None:
        if status != request.status:
            self.wrong.append(f"{request.kind}: {status} instead of {request.status}: {body[:300]!r}")
        elif request.probabilities is not None:
            (prediction,) = json.loads(body)["predictions"]
            expected = request.probabilities
            distance = max(abs(prediction["probabilities"][label] - p) for label, p in expected.items())
            if distance > TOLERANCE or prediction["probability"] != max(prediction["probabilities"].values()):
                self.wrong.append(f"another image's answer: off by {distance}")
            else:
                self.right["good"] += 1
        else:
            self.right[request.kind] += 1


async def metrics(port: int) -> dict[str, float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    lines = (await reader.read()).decode().partition("\r\n\r\n")[2].splitlines()
    writer.close()
    return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def test_no_innocent_request_fails_and_no_answer_is_anothers(good: list[Request]) -> None:
    async def scenario(port: int) -> tuple[list[Client], dict[str, float]]:
        requests = traffic(good, REQUESTS, seed=1)
        clients = [Client(port, requests) for _ in range(CONNECTIONS)]
        await asyncio.gather(*(client.run() for client in clients))
        return clients, await metrics(port)

    with running(ROOT / "models", default_model="tutorial-cnn") as convoy:
        clients, counted = asyncio.run(scenario(convoy.port))
        assert convoy.stop() == 0
    wrong = [text for client in clients for text in client.wrong]
    assert not wrong, (len(wrong), wrong[:5])
    right = sum((client.right for client in clients), Counter[str]())
    expected = Counter(request.kind for request in traffic(good, REQUESTS, seed=1))
    assert right == expected

    def requests_counted(status: int) -> float:
        return counted[f'convoy_requests_total{{route="/v1/predict",method="POST",status="{status}"}}']

    # an aborted request may have been answered before the server heard of its end
    assert expected["good"] <= requests_counted(200) <= expected["good"] + expected["aborted"]
    assert requests_counted(422) == expected["corrupt"] + expected["wrong-shape"]
    assert counted['convoy_queue_images{model="tutorial-cnn"}'] == 0
    assert not any('status="5' in key for key in counted)
