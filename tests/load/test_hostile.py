"""Archives that mean harm against a running server: each has its clear answer, and nothing grows."""

from __future__ import annotations

import http.client
import io
import json
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import encode, picture
from tests.processes import Convoy, running
from tests.service.jobs.packing import PACKERS, as_encrypted_zip, as_ndjson, as_overlapping_zip, as_zip

RED = encode(picture("red"))
GOOD = ("good.png", RED)
MOST_IMAGES = 50
ZEROS = [(f"{i}.bmp", bytes(16 << 20)) for i in range(16)]  # 256 MiB, which pack to a thousandth of that
DISK_BYTES = 512 << 20  # the bombs together unpack to more than twice that
MEMORY_BYTES = 200 << 20


class Attack(NamedTuple):
    """A body, and what becomes of it: the rows with an error, or the type of the error that all of it has."""

    media_type: str
    content: Callable[[], bytes]
    answer: int | str


def links() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind in (("soft", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("device", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo(GOOD[0])
        member.size = len(RED)
        archive.addfile(member, io.BytesIO(RED))
    return stream.getvalue()


ZIP, TAR, NDJSON, PARQUET = (
    "application/zip", "application/x-tar", "application/x-ndjson", "application/vnd.apache.parquet",
)  # fmt: skip
ATTACKS = {
    "a bomb": Attack(ZIP, lambda: PACKERS["zip"](ZEROS), "invalid-source"),
    "a bomb as tar.gz": Attack(TAR, lambda: PACKERS["tar.gz"](ZEROS), "invalid-source"),
    "a bomb as tar.zst": Attack(TAR, lambda: PACKERS["tar.zst"](ZEROS), "invalid-source"),
    "a bomb of one kernel": Attack(ZIP, lambda: as_overlapping_zip(16 << 20, 30), "invalid-source"),
    "an archive in an archive": Attack(ZIP, lambda: as_zip([("in.zip", as_zip([GOOD])), GOOD]), 1),
    "too many members": Attack(
        ZIP, lambda: as_zip((f"{i}.png", RED) for i in range(MOST_IMAGES + 1)), "invalid-source"
    ),
    "paths that lead out": Attack(TAR, lambda: PACKERS["tar"]([("../out.png", RED), ("/out.png", RED), GOOD]), 2),
    "links and devices": Attack(TAR, links, 3),
    "an encrypted member": Attack(ZIP, lambda: as_encrypted_zip([("a.png", RED), GOOD]), 1),
    "an end that is missing": Attack(ZIP, lambda: as_zip([GOOD])[:-30], "invalid-source"),
    "no archive": Attack(ZIP, lambda: b"PK\x03\x04" + bytes(100), "invalid-source"),
    "nothing in it": Attack(ZIP, lambda: as_zip([]), "empty-request"),
    "a line that is no JSON": Attack(NDJSON, lambda: b"{" * 100_000, 1),
    "a picture of too many pixels": Attack(NDJSON, lambda: as_ndjson([("wide", wide()), GOOD]), 1),
    "a table that is none": Attack(PARQUET, lambda: b"PAR1" + bytes(1000) + b"PAR1", "invalid-source"),
}


def wide() -> bytes:
    """A PNG whose head promises 65,000 × 65,000 pixels."""
    png = bytearray(RED)
    png[16:24] = struct.pack(">LL", 65_000, 65_000)
    return bytes(png)


def ask(convoy: Convoy, method: str, path: str, body: bytes = b"", media_type: str = "image/png") -> tuple[int, Any]:
    connection = convoy.connect()
    connection.request(method, path, body, {"Content-Type": media_type})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def followed(convoy: Convoy, batch: str) -> dict[str, Any]:
    """The batch once it has ended."""
    connection = convoy.connect()
    connection.request("GET", f"/v1/batches/{batch}/events")
    events = connection.getresponse()
    while line := events.readline():
        if line.startswith(b"data: ") and (found := json.loads(line.removeprefix(b"data: ")))["finished_at"]:
            assert isinstance(found, dict)
            return found
    raise http.client.HTTPException("the events ended before the batch")


def most_memory(convoy: Convoy) -> int:
    """What the server's processes had at their peaks, in bytes."""
    status = "".join(Path(f"/proc/{pid}/status").read_text() for pid in [convoy.process.pid, *convoy.workers()])
    return sum(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


def disk(folder: Path) -> int:
    return sum(os.path.getsize(path) for path in folder.rglob("*") if path.is_file())  # noqa: PTH202 - one may vanish


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_each_has_its_answer_and_the_server_stays_as_it_was(models_dir: Path, tmp_path: Path) -> None:
    jobs = tmp_path / "in" / "jobs"
    with running(models_dir, jobs_dir=str(jobs), max_batch_images=str(MOST_IMAGES)) as convoy:
        before = ask(convoy, "POST", "/v1/predict", RED)
        memory = most_memory(convoy)
        for name, attack in ATTACKS.items():
            status, batch = ask(convoy, "POST", "/v1/batches", attack.content(), attack.media_type)
            if status == 202:
                batch = followed(convoy, batch["id"])
            if isinstance(attack.answer, int):
                assert (batch["status"], batch["counts"]["failed"]) == ("succeeded", attack.answer), name
            else:
                error = batch["error"] if status == 202 else batch
                assert error["type"].removeprefix("/problems/") == attack.answer, (name, batch)
                assert len(error["detail"]) > 20, name
            assert disk(jobs) < DISK_BYTES, name
        assert most_memory(convoy) - memory < MEMORY_BYTES
        assert disk(jobs) < 4 << 20  # nothing is left of the inputs
        assert {path.name for path in tmp_path.rglob("*.png")} == set()  # nothing was unpacked, here or elsewhere
        assert ask(convoy, "POST", "/v1/predict", RED) == before
        assert convoy.stop() == 0
