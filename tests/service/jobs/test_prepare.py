"""Uploads → spools, in a process that may fail."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow
import pytest
from pyarrow import parquet

from service.errors import EmptyRequest, InvalidSource, StorageFailed
from service.jobs import spool
from service.jobs.inputs import Limits
from service.jobs.prepare import MOST_CPU_S, Order, ReaderDied, in_a_process, prepare
from tests.service.jobs.packing import PACKERS

PICTURES = [("a.png", b"first"), ("b.png", b"second")]


def as_nothing(rows: int) -> bytes:
    """A table whose every row has no image."""
    stream = io.BytesIO()
    parquet.write_table(pyarrow.table({"image": pyarrow.nulls(rows, pyarrow.binary())}), stream)
    return stream.getvalue()


def order(folder: Path, kind: str, content: bytes) -> Order:
    (folder / "upload").write_bytes(content)
    return Order(str(folder), kind, Limits())


@contextmanager
def carrying_out(order: Order) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A process of its own, and what it says."""
    with subprocess.Popen(
        [sys.executable, "-m", "service.jobs.prepare"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        process.stdin.write(order.dump())
        process.stdin.flush()
        yield process, process.stdout


@pytest.mark.parametrize("kind", PACKERS)
def test_every_kind_is_spooled_in_its_order(kind: str, tmp_path: Path) -> None:
    assert prepare(order(tmp_path, kind, PACKERS[kind](PICTURES))) == 2
    ids, contents = spool.read(tmp_path, 0, 2)
    assert list(zip(ids, contents, strict=True)) == PICTURES


def test_what_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidSource):
        prepare(order(tmp_path, "zip", b"PK\x03\x04"))


@pytest.mark.parametrize(("kind", "content"), [("ndjson", b"x\n" * 500_000), ("parquet", as_nothing(1_000_000))])
def test_a_few_bytes_are_not_rows_of_errors_without_end(kind: str, content: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidSource, match="far more than its own size"):
        prepare(order(tmp_path, kind, content))
    assert [path.name for path in tmp_path.iterdir()] == ["upload"]


def test_an_upload_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EmptyRequest):
        prepare(order(tmp_path, "zip", PACKERS["zip"]([])))


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (PACKERS["zip"](PICTURES), {"total": 2}),
        (b"", {"error": {"type": "invalid-source", "title": "Not a readable batch"}}),
    ],
)
def test_the_process_answers_in_json(content: bytes, answer: dict[str, object], tmp_path: Path) -> None:
    with carrying_out(order(tmp_path, "zip", content)) as (_, said_by):
        said = json.loads(said_by.read())
    said.get("error", {}).pop("detail", None)
    assert said == answer


def answered(order: Order) -> int:
    return asyncio.run(in_a_process(order))


def test_another_process_does_it(tmp_path: Path) -> None:
    assert answered(order(tmp_path, "zip", PACKERS["zip"](PICTURES))) == 2
    with pytest.raises(EmptyRequest):
        answered(order(tmp_path, "zip", PACKERS["zip"]([])))


def test_trouble_with_the_disk_is_told_from_an_upload_that_can_not_be_read(tmp_path: Path) -> None:
    there = order(tmp_path, "zip", PACKERS["zip"](PICTURES))
    (tmp_path / "inputs").symlink_to("/dev/full")
    with pytest.raises(StorageFailed, match="No space left"):
        answered(there)
    assert [path.name for path in tmp_path.iterdir()] == ["upload"]  # or nothing could be written any more
    (tmp_path / "upload").unlink()
    with pytest.raises(InvalidSource, match="No such file"):
        answered(there)


@pytest.fixture
def waits(tmp_path: Path) -> Order:
    """An upload that comes when the test writes it."""
    os.mkfifo(tmp_path / "upload")
    return Order(str(tmp_path), "ndjson", Limits())


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGKILL, ReaderDied), (signal.SIGSEGV, ReaderDied), (signal.SIGXCPU, InvalidSource)]
)
def test_a_process_that_a_signal_ends_is_told_from_one_that_took_too_long(
    number: signal.Signals, error: type[Exception], waits: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = asyncio.create_subprocess_exec, list[asyncio.subprocess.Process]()

    async def watched(*words: str, **options: Any) -> asyncio.subprocess.Process:  # noqa: ANN401
        started.append(await start(*words, **options))
        return started[0]

    async def scenario() -> None:
        reading = asyncio.create_task(in_a_process(waits))
        with await asyncio.to_thread(Path(waits.folder, "upload").open, "wb"):  # once it is open at the other end
            assert resource.prlimit(started[0].pid, resource.RLIMIT_CPU)[0] == MOST_CPU_S
            started[0].send_signal(number)
            with pytest.raises(error):
                await reading

    monkeypatch.setattr(asyncio, "create_subprocess_exec", watched)
    asyncio.run(scenario())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_to_end_the_service_does_not_end_the_process(number: signal.Signals, waits: Order) -> None:
    with carrying_out(waits) as (process, said):
        with Path(waits.folder, "upload").open("wb") as upload:
            process.send_signal(number)
            upload.write(PACKERS["ndjson"](PICTURES))
        assert json.loads(said.read()) == {"total": 2}


def test_its_libraries_start_no_threads(waits: Order) -> None:
    """Each would reserve memory, one for every core."""
    with carrying_out(waits) as (process, _), Path(waits.folder, "upload").open("wb"):
        threads = list(Path(f"/proc/{process.pid}/task").iterdir())
    assert len(threads) == 2  # its own, and the one that waits for the parent's end


def test_its_libraries_reserve_little_memory(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "inputs")
    with carrying_out(order(tmp_path, "parquet", PACKERS["parquet"]([("a.png", bytes(1 << 20))]))) as (process, said):
        with (tmp_path / "inputs").open("rb") as spooled:
            assert spooled.read(1)  # it has read the table, and waits for the rest to be read
            kib = re.search(r"VmPeak:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        said.read()
    assert kib
    assert int(kib[1]) < 700 << 10


def test_the_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "service.jobs.prepare"], stdin=subprocess.PIPE, cwd=Path(__file__).parents[3]
    ) as process:
        assert process.stdin
        (tmp_path / "upload").symlink_to("/dev/zero")
        process.stdin.write(Order(str(tmp_path), "ndjson", Limits()).dump())
        process.stdin.close()
        assert process.wait(30) == 1
