"""Lists of batches that earlier versions made."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from service.jobs import schema
from service.jobs.database import FILE_NAME, Batch, Database

PROCESSES = 4
ADDED = ", threshold REAL, coverage TEXT"


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The folder of a list as it was before there were prediction sets, with a batch in it."""
    assert schema.SCHEMA.count(ADDED) == 1
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.executescript(schema.SCHEMA.replace(ADDED, ""))
    connection.execute(
        """INSERT INTO batches (id, status, model, version, digest, labels, source, fingerprint, per_chunk, created)
           VALUES ('batch-1', 'queued', 'm', '1', 'd', '["a"]', 'zip', 'f', 256, 1.0)"""
    )
    connection.commit()
    connection.close()
    return tmp_path


def batches(root: Path) -> list[Batch]:
    database = Database(root)
    try:
        with database.reading() as connection:
            return [Batch(**row) for row in connection.execute("SELECT * FROM batches")]
    finally:
        database.close()


def test_an_earlier_list_keeps_its_batches_and_gets_what_it_lacks(earlier: Path) -> None:
    (batch,) = batches(earlier)
    assert (batch.id, batch.created, batch.threshold, batch.coverage) == ("batch-1", 1.0, None, None)
    assert batches(earlier) == [batch]


def test_processes_that_open_it_at_the_same_time_all_can(earlier: Path) -> None:
    begin = Barrier(PROCESSES)

    def opened(_: int) -> list[Batch]:
        begin.wait()
        return batches(earlier)

    with ThreadPoolExecutor(PROCESSES) as threads:
        found = list(threads.map(opened, range(PROCESSES)))
    assert [[batch.id for batch in each] for each in found] == [["batch-1"]] * PROCESSES
