"""What the database of batches says when it can't do what it is asked to, and how long that takes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.errors import StorageBusy, StorageFailed
from service.jobs.database import FILE_NAME, Database, as_storage_failed

NOT_LONG_S = 0.01


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path)
    yield opened
    opened.close()


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """By another process, as far as the database can tell."""
    with database.writing():
        pass  # from now on there is one
    other = sqlite3.connect(database.root / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


def count(database: Database) -> int:
    with database.reading() as connection:
        return int(connection.execute("SELECT count(*) AS count FROM batches").fetchone()["count"])


def write(database: Database) -> None:
    with database.writing(NOT_LONG_S):
        raise AssertionError("unreachable")


def test_what_another_process_keeps_locked_is_waited_for_no_longer_than_may_be(database: Database) -> None:
    with locked(database):
        with pytest.raises(StorageBusy, match=r"^Another process keeps the list .* nothing was changed; try again"):
            write(database)
        assert count(database) == 0
    with database.writing(NOT_LONG_S):
        pass


def test_nor_is_what_another_thread_does(database: Database) -> None:
    with ThreadPoolExecutor(1) as threads, database.writing(), pytest.raises(StorageBusy):
        threads.submit(write, database).result(30)


def test_who_reads_does_not_wait_for_who_writes(database: Database) -> None:
    with ThreadPoolExecutor(1) as threads, database.writing():
        assert threads.submit(count, database).result(30) == 0


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), sqlite3.OperationalError("disk I/O error")])
def test_trouble_with_the_disk_is_told_in_words_that_say_what_to_do(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StorageFailed) as raised, as_storage_failed():
        raise error
    assert not isinstance(raised.value, StorageBusy)
    assert raised.value.detail == (
        "The disk for batches is full or can't be written; delete batches that are not needed, or try again later."
    )
    assert raised.value.__cause__ is error
    (record,) = caplog.records
    assert record.exc_info  # the operator needs to know more
