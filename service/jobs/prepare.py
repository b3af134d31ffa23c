"""`python -m service.jobs.prepare`: a batch's upload → its spool, in a process of its own.

Archives come from strangers: what goes wrong with one ends this process, which has little memory and yields to all
others, and not the service. The order comes as JSON on stdin, the answer goes to stdout; the end of stdin ends it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

if __name__ == "__main__":  # libraries that come with the others would reserve memory that they don't use
    os.putenv("OPENBLAS_NUM_THREADS", "1")  # NumPy's: a buffer for each core
    os.putenv("ARROW_DEFAULT_MEMORY_POOL", "system")  # pyarrow's own takes a GiB at a time

from service.errors import EmptyRequest, InvalidImage, InvalidSource, ServiceError, StorageFailed
from service.jobs.inputs import Limits
from service.jobs.sources import SOURCES
from service.jobs.spool import SpoolWriter
from service.jobs.store import UPLOAD

# Of addresses. A page of Parquet, often a hundred images, has up to 2 GiB, and is there twice: packed and unpacked.
MOST_MEMORY = 5 << 30
MOST_CPU_S = 3600  # what has not been read by then is made to keep readers busy
TOO_MUCH = "Reading the upload took too much memory or failed; send it in parts."
# Trouble with the disk, whatever the upload: any other is the upload's own.
PASSES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}


class ReaderDied(Exception):
    """A signal ended the process that read an upload: whoever sent it, the upload need not be to blame."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be prepared."""

    folder: str
    source: str  # its name in SOURCES
    limits: Limits

    def dump(self) -> bytes:
        """One line of JSON."""
        return orjson.dumps(asdict(self)) + b"\n"

    @classmethod
    def load(cls, line: bytes) -> Order:
        """What `dump` gave."""
        values = orjson.loads(line)
        return cls(values["folder"], values["source"], Limits(**values["limits"]))


async def in_a_process(order: Order) -> int:
    """Have another process `prepare`; the number of inputs.

    Raises `InvalidSource`, `EmptyRequest`, `StorageFailed` or `ReaderDied`.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.jobs.prepare",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(order.dump())
        said = await process.stdout.read()
        status = await process.wait()
    finally:
        process.stdin.close()
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status == -signal.SIGXCPU:
        raise InvalidSource("Reading the upload took too long; send it in parts.")
    if status < 0:
        raise ReaderDied(f"signal {-status} ended the process that read the upload")
    try:
        answer = orjson.loads(said)
    except orjson.JSONDecodeError as exc:
        raise InvalidSource(TOO_MUCH) from exc
    if "os_error" in answer:
        trouble = StorageFailed if answer["passes"] else InvalidSource
        raise trouble(f"The upload could not be unpacked: {answer['os_error']}.")
    if "error" in answer:
        kind = EmptyRequest if answer["error"]["type"] == EmptyRequest.slug else InvalidSource
        raise kind(answer["error"]["detail"])
    return int(answer["total"])


def prepare(order: Order) -> int:
    """Read the upload into the spool, on the disk when this returns; the number of inputs.

    The spool is bounded as the reading is, and where that fails nothing is left of it: the disk may be full of it.

    Raises `InvalidSource`, `EmptyRequest` or `OSError`.
    """
    folder = Path(order.folder)
    upload = folder / UPLOAD
    size = upload.stat().st_size
    with upload.open("rb") as stream, SpoolWriter(folder, order.limits.budget(size)) as spool:
        for each in SOURCES[order.source].read(stream, size, order.limits):
            content = each.content()
            spool.add(each.id, content if isinstance(content, bytes | InvalidImage) else content.tobytes())
        spool.sync()
    if not spool.count:
        raise EmptyRequest("The batch holds no image; send at least one.")
    return spool.count


def main() -> int:
    """Carry out one order."""
    for number in (signal.SIGTERM, signal.SIGINT):  # to the whole service: who waits for the answer ends this one
        signal.signal(number, signal.SIG_IGN)
    os.nice(19)
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    order = Order.load(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    answer: dict[str, object]
    try:
        answer = {"total": prepare(order)}
    except ServiceError as exc:
        answer = {"error": exc.summary()}
    except OSError as exc:
        answer = {"os_error": exc.strerror, "passes": exc.errno in PASSES}
    sys.stdout.buffer.write(orjson.dumps(answer))
    sys.stdout.buffer.flush()
    os._exit(0)  # the other thread waits for ever


def _end_with_the_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
