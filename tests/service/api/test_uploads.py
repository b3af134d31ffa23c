"""A large body is made pictures of, whatever else waits in this process."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from starlette.testclient import TestClient

from service.api import npy
from service.api.uploads import INLINE_BYTES
from tests.conftest import encode, picture

PADDING = " " * INLINE_BYTES  # JSON may have it; such a body is not small any more
IMAGE = base64.b64encode(encode(picture("red"))).decode()
TENSOR = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [IMAGE]}
SIDE = 300
ARRAY = np.zeros((1, SIDE, SIDE, 3), np.uint8, order="F")
assert ARRAY.nbytes > INLINE_BYTES


@pytest.mark.parametrize(
    ("path", "media_type", "body"),
    [
        ("/v1/predict", "application/json", (json.dumps({"images": [IMAGE]}) + PADDING).encode()),
        ("/v1/predict", npy.MEDIA_TYPE, npy.dump(ARRAY)),
        ("/v2/models/colours/infer", "application/json", (json.dumps({"inputs": [TENSOR]}) + PADDING).encode()),
    ],
)
def test_a_large_body_is_read_while_a_stalled_disk_holds_every_thread_of_the_event_loop(
    client: TestClient, path: str, media_type: str, body: bytes
) -> None:
    release, threads = threading.Event(), ThreadPoolExecutor(1)

    async def stall() -> None:
        asyncio.get_running_loop().set_default_executor(threads)
        threads.submit(release.wait, 20)

    assert client.portal
    client.portal.call(stall)
    headers = {"content-type": media_type, "x-request-timeout-ms": "10000"}
    try:
        assert client.post(path, content=body, headers=headers).status_code == 200
    finally:
        release.set()
