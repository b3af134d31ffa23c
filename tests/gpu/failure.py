"""What becomes of the service when its device fails for good, and when it is full."""

from __future__ import annotations

import ctypes
import http.client
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from service import engine as engines
from service.errors import OutOfMemory
from service.metadata import ModelMetadata
from tests.gpu.report import Row, at_most, holds
from tests.gpu.serving import Plan, Served, generate, server
from tests.gpu.steps import ROOT
from tests.gpu.subject import Context, generated, model_file, model_folder

PICTURE = ROOT / "service" / "web" / "example.png"
SABOTAGE = Path(__file__).parent / "sabotage"
PATIENCE_S, BACK_S_GOAL = 60.0, 30.0
LEFT_BYTES = 32 << 20  # what out_of_memory leaves free on the device


def device_error(context: Context) -> Iterator[Row]:
    """A kernel that writes where it may not breaks CUDA for its process; on the CPU the session says so without one."""
    paths = os.pathsep.join([str(SABOTAGE), os.environ.get("PYTHONPATH", "")])
    note = "a real fault on the GPU" if context.device == "cuda" else "simulated: the session raises CUDA's words"
    with server(context, 2, PYTHONPATH=paths) as served:
        before = served.workers()
        os.kill(before[0], signal.SIGUSR2)
        began, statuses = time.monotonic(), []
        while before[0] in served.workers() and time.monotonic() - began < PATIENCE_S:
            statuses.append(_status(served))
        yield holds("the broken worker has ended", before[0] not in served.workers(), note)
        yield Row("after", time.monotonic() - began, "s", note=f"{len(statuses)} requests, of which failed "
                  f"{sum(status != 200 for status in statuses)}")  # fmt: skip
        while len(served.workers()) < 2 or not _all_answer(served):
            if time.monotonic() - began > PATIENCE_S:
                break
        yield at_most(BACK_S_GOAL, "another has its place after", time.monotonic() - began, "s")
        yield holds("the other one went on", before[1] in served.workers())
        good, other, *_ = generate(Plan(served.target, "single", 4, 1.0))
        yield holds("and every answer is 200 again", good > 0 and not other, f"{good:,} requests")
    log = (context.work / "server.log").read_text(encoding="utf-8")
    yield holds("the log says that the device failed for good", "the device has failed for good" in log)


def _status(served: Served) -> int:
    """What one request on a connection of its own is answered; 0 for none."""
    connection = http.client.HTTPConnection(served.target.host, served.target.port, timeout=30)
    try:
        connection.request("POST", "/v1/predict", PICTURE.read_bytes(), {"Content-Type": "image/png"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _all_answer(served: Served) -> bool:
    return all(_status(served) == 200 for _ in range(4))


def out_of_memory(context: Context) -> Iterator[Row]:
    """Somebody else takes the whole GPU after the model was loaded: refused, not lost, and well again afterwards."""
    context.need_cuda()
    metadata = ModelMetadata.read(model_folder(context))
    engine = engines.Engine(
        {"fp16": model_file(context, "fp16")}, device="cuda", classes=len(metadata.labels),
        height=metadata.input.height, width=metadata.input.width, max_batch_size=1024, threads=1,
    )  # fmt: skip
    engine.infer(generated(1))
    taken = _take_all_but(LEFT_BYTES)
    try:
        engine.infer(generated(1024))
        yield holds("a batch without room is refused with 503", False, "it had room")
    except OutOfMemory as exc:
        yield holds("a batch without room is refused with 503", exc.status == 503, exc.detail)
    except Exception as exc:
        yield holds(
            "a batch without room is refused with 503", False, f"{type(exc).__name__}: {exc} from {exc.__cause__}"[:300]
        )
    yield holds("the device is not given up", not engine.lost)
    taken()
    yield holds("and has room again later", bool(np.isfinite(engine.infer(generated(1024))).all()))


def _take_all_but(left: int):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """Allocate the device's memory but for `left` bytes; what gives it back."""
    driver = ctypes.CDLL("libcuda.so.1")
    context = ctypes.c_void_p()
    assert driver.cuInit(0) == 0
    assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    assert driver.cuCtxSetCurrent(context) == 0
    free, total, block, blocks = ctypes.c_size_t(), ctypes.c_size_t(), 1 << 30, list[ctypes.c_uint64]()
    while block >= 1 << 20:
        assert driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
        pointer = ctypes.c_uint64()
        if free.value < left + block or driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(block)) != 0:
            block //= 2
        else:
            blocks.append(pointer)
    return lambda: [driver.cuMemFree_v2(pointer) for pointer in blocks]
