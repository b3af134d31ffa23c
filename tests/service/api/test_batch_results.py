"""A batch's rows → bodies of answers: which part is meant, and whole lines wherever the blocks end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.api import batch_results
from service.api.batch_results import BrokenOff, encode, parse_range, read_bytes, read_lines
from service.errors import BatchNotFound, RangeNotSatisfiable, ServiceError, StorageFailed
from service.jobs.database import Batch
from service.jobs.results import RESULTS

LINES = [b'{"index":%d,"id":"%s"}\n' % (index, b"x" * index) for index in range(100)]
ALL = len(b"".join(LINES))
SO_FAR = len(b"".join(LINES[:40]))
RUNNING = Batch(
    1, "batch-1", "running", "colours", "1", "", "[]", None, "zip", None, "", 256, 100, 40, 0, SO_FAR, 1, 1, 0.0, 0.0,
    None, None,
)  # fmt: skip
DONE = replace(RUNNING, status="succeeded", bytes=ALL)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of which some fill a block's half and some do not fit into one."""
    monkeypatch.setattr(batch_results, "BLOCK", 64)
    monkeypatch.setattr(batch_results, "POLL_S", 0)
    (tmp_path / "results.ndjson").write_bytes(b"".join(LINES))
    return tmp_path / "results.ndjson"


def blocks(source: AsyncIterator[bytes]) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [block async for block in source]

    return asyncio.run(collect())


def followed(path: Path, *looks: Batch | ServiceError) -> tuple[bytes, bool]:
    """What is read of a batch that changes so, and whether it broke off."""
    left, found = list(looks), bytearray()

    async def look() -> Batch:
        if isinstance(seen := left.pop(0), ServiceError):
            raise seen
        return seen

    async def collect() -> None:
        async for block in read_lines(path, RUNNING, look):
            assert block.endswith(b"\n")
            found.extend(block)

    try:
        asyncio.run(collect())
    except BrokenOff:
        return bytes(found), True
    assert not left
    return bytes(found), False


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=5-5", (5, 6)),
        ("bytes=9-", (9, 10)),
        ("bytes=0-9", (0, 10)),
        ("bytes=5-10", (5, 10)),
        ("bytes=-10", (0, 10)),
        ("bytes=-11", (0, 10)),
        ("bytes=0000000000000000000005-", (5, 10)),
        ("bytes = 1 - 2", (1, 3)),
        (None, None),
    ],
)
def test_a_range_is_the_one_of_rfc_9110(header: str | None, part: tuple[int, int] | None) -> None:
    assert parse_range(header, 10, grows=False) == part


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=-0", f"bytes={'9' * 5000}-"])
def test_a_range_without_a_byte_is_refused(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        parse_range(header, 10, grows=False)


def test_a_part_comes_in_blocks(path: Path) -> None:
    found = blocks(read_bytes(path, 10, 150))
    assert [len(block) for block in found] == [64, 64, 12]
    assert b"".join(found) == b"".join(LINES)[10:150]


def test_lines_are_whole_whatever_the_blocks_are(path: Path) -> None:
    found = blocks(read_lines(path, DONE, None))
    assert b"".join(found) == b"".join(LINES)
    assert all(block.endswith(b"\n") for block in found)


def test_who_does_not_follow_gets_what_is_certain(path: Path) -> None:
    assert b"".join(blocks(read_lines(path, RUNNING, None))) == b"".join(LINES[:40])
    assert b"".join(blocks(read_lines(path, replace(RUNNING, status="failed"), None))) == b"".join(LINES[:40])


def test_who_follows_gets_every_row_once(path: Path) -> None:
    more = replace(RUNNING, bytes=len(b"".join(LINES[:70])))
    assert followed(path, RUNNING, more, more, DONE) == (b"".join(LINES), False)
    assert followed(path, replace(DONE, bytes=SO_FAR)) == (b"".join(LINES[:40]), False)


@pytest.mark.parametrize("end", [replace(RUNNING, status="failed"), BatchNotFound("deleted"), StorageFailed("locked")])
def test_who_follows_is_told_that_no_more_comes(end: Batch | ServiceError, path: Path) -> None:
    assert followed(path, RUNNING, end) == (b"".join(LINES[:40]), True)


def test_rows_that_are_lost_do_not_seem_to_be_all(path: Path) -> None:
    """As on a damaged disk: a table of the others would be whole, and short."""
    path.write_bytes(b"".join(LINES[:99]))
    with pytest.raises(BrokenOff):
        blocks(read_lines(path, DONE, None))


def test_a_format_without_rows_is_whole_too(path: Path) -> None:
    csv = encode(read_lines(path, replace(DONE, bytes=0), None), RESULTS["csv"].encoder(["a"], False))
    assert b"".join(blocks(csv)) == b"index,id,label,probability,error,detail,probabilities.a\r\n"
