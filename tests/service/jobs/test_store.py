"""Batches that outlive processes."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from service.errors import BatchNotFound, Conflict, StorageBusy, StorageFailed
from service.jobs import database as database_module
from service.jobs import store as store_module
from service.jobs.database import Batch
from service.jobs.store import FETCH_S, NewBatch, Store
from service.prediction import ModelIdentity
from tests.conftest import COLOURS

IDENTITY = ModelIdentity("colours", "1", "sha256:0", COLOURS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "jobs")
    yield opened
    opened.database.close()


def add(store: Store, key: str | None = None, fingerprint: str = "x", content: bytes = b"") -> Batch:
    batch_id, folder = store.new_folder()
    (folder / "upload").write_bytes(content)
    return store.create(NewBatch(batch_id, IDENTITY, None, "zip", key, fingerprint))


def finish(store: Store, batch: Batch, finished: float, results: bytes = b"") -> None:
    (store.folder(batch.id) / "results.ndjson").write_bytes(results)
    with store.database.writing() as connection:
        connection.execute(
            "UPDATE batches SET status = 'succeeded', finished = ?, bytes = ? WHERE number = ?",
            [finished, len(results), batch.number],
        )
    store.drop_inputs(batch.id)


def test_a_batch_is_what_it_was_created_as(store: Store) -> None:
    batch = add(store)
    assert store.get(batch.id) == batch
    assert (batch.status, batch.model, batch.total, batch.done) == ("queued", "colours", None, 0)


def test_nothing_is_made_before_the_first_batch(store: Store, tmp_path: Path) -> None:
    assert store.newest(5) == []
    assert store.tidy(keep_s=0, max_bytes=0) == 0
    with pytest.raises(BatchNotFound):
        store.get("batch-0")
    assert not (tmp_path / "jobs").exists()


def test_another_process_sees_it(store: Store, tmp_path: Path) -> None:
    batch = add(store)
    other = Store(tmp_path / "jobs")
    assert other.get(batch.id) == batch
    other.database.close()


def test_pages_go_from_the_newest_to_the_oldest(store: Store) -> None:
    ids = [add(store).id for _ in range(5)][::-1]
    first = [batch.id for batch in store.newest(3)]
    assert first + [batch.id for batch in store.newest(3, after=first[-1])] == ids


def test_batches_are_counted_by_status(store: Store) -> None:
    assert set(store.counts().values()) == {0}
    finish(store, add(store), time.time())
    add(store)
    assert store.counts() == {"queued": 1, "running": 0, "succeeded": 1, "failed": 0}


def test_a_key_gives_the_same_batch_again(store: Store) -> None:
    first = add(store, key="k")
    assert add(store, key="k") == first
    assert len(store.newest(9)) == 1


def test_a_key_with_another_body_is_a_conflict(store: Store) -> None:
    add(store, key="k")
    with pytest.raises(Conflict):
        add(store, key="k", fingerprint="y")


def test_a_deleted_batch_is_gone_with_its_files(store: Store) -> None:
    batch = add(store)
    store.delete(batch.id)
    assert not store.folder(batch.id).exists()
    for act in (store.get, store.delete):
        with pytest.raises(BatchNotFound):
            act(batch.id)


def test_old_batches_go_when_they_are_finished(store: Store) -> None:
    old, new, running = add(store), add(store), add(store)
    finish(store, old, time.time() - 100)
    finish(store, new, time.time() - 10)
    store.tidy(keep_s=50, max_bytes=1 << 30)
    assert [batch.id for batch in store.newest(9)] == [running.id, new.id]


def test_what_has_just_finished_stays_whatever_needs_room(store: Store) -> None:
    """Else who sent it may come too late for its rows."""
    old, new, (arriving, _) = add(store), add(store), store.new_folder()
    finish(store, old, time.time() - FETCH_S - 1, bytes(1000))
    finish(store, new, time.time(), bytes(1000))
    assert store.unfinished(arriving) == (0, 1000)
    assert store.tidy(keep_s=1e9, max_bytes=100) == 1000
    assert [batch.id for batch in store.newest(9)] == [new.id]
    assert store.tidy(keep_s=1e9, max_bytes=1500, needed_bytes=501, needed_by=arriving) == 1501
    assert store.tidy(keep_s=-1, max_bytes=1500) == 501


def test_none_goes_for_what_has_no_room_beside_what_has_just_finished(store: Store) -> None:
    old, new = add(store), add(store)
    finish(store, old, time.time() - FETCH_S - 1, bytes(1000))
    finish(store, new, time.time(), bytes(1000))
    assert store.tidy(keep_s=1e9, max_bytes=2000, needed_bytes=1001) == 3001
    assert len(store.newest(9)) == 2


def test_the_oldest_finished_go_where_room_is_needed(store: Store) -> None:
    batches = [add(store, content=bytes(1000)) for _ in range(4)]
    for age, batch in enumerate(batches[:3]):
        finish(store, batch, time.time() - FETCH_S - 10 + age, bytes(1000))
    assert store.tidy(keep_s=1e9, max_bytes=3000, needed_bytes=500) == 2500
    assert [batch.id for batch in store.newest(9)] == [batches[3].id, batches[2].id]
    assert store.tidy(keep_s=1e9, max_bytes=100) == 1000  # what runs stays, whatever it takes


def test_none_goes_for_what_has_no_room_even_so(store: Store) -> None:
    batches = [add(store), add(store, content=bytes(1000))]
    finish(store, batches[0], time.time() - FETCH_S - 1, bytes(1000))
    assert store.tidy(keep_s=1e9, max_bytes=2500, needed_bytes=1501) == 3501
    assert len(store.newest(9)) == 2
    assert store.tidy(keep_s=1e9, max_bytes=2500, needed_bytes=1500) == 2500
    assert [batch.id for batch in store.newest(9)] == [batches[1].id]


def test_what_has_arrived_is_not_counted_beside_what_is_needed(store: Store) -> None:
    batch, (arriving, folder) = add(store), store.new_folder()
    (folder / "upload").write_bytes(bytes(700))
    finish(store, batch, time.time(), bytes(1000))
    assert store.tidy(keep_s=1e9, max_bytes=2000, needed_bytes=1000, needed_by=arriving) == 2000
    assert len(store.newest(9)) == 1


def test_what_is_still_to_come_of_an_upload_is_not_there_for_another(store: Store) -> None:
    (first, _), (second, folder) = store.new_folder(), store.new_folder()
    assert store.tidy(keep_s=1e9, max_bytes=2000, needed_bytes=1500, needed_by=first) == 1500
    assert store.tidy(keep_s=1e9, max_bytes=2000, needed_bytes=700, needed_by=second) == 2200
    store.discard(first)
    (folder / "upload").write_bytes(bytes(600))
    assert store.tidy(keep_s=1e9, max_bytes=2000) == 700
    (folder / "upload").write_bytes(bytes(800))
    assert store.tidy(keep_s=1e9, max_bytes=2000) == 800


def test_a_batch_takes_what_it_has_not_what_was_expected(store: Store) -> None:
    batch_id, folder = store.new_folder()
    store.tidy(keep_s=1e9, max_bytes=2000, needed_bytes=1500, needed_by=batch_id)
    (folder / "upload").write_bytes(bytes(600))
    store.create(NewBatch(batch_id, IDENTITY, None, "zip", None, "x"))
    assert store.tidy(keep_s=1e9, max_bytes=2000) == 600


def test_uploads_that_never_ended_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store)
    _, young = store.new_folder()
    _, old = store.new_folder()
    os.utime(old, (0, 0))
    store.tidy(keep_s=1e9, max_bytes=1 << 30)
    assert young.exists()
    assert not old.exists()
    monkeypatch.setattr(store_module, "ORPHAN_S", -1)
    store.tidy(keep_s=1e9, max_bytes=1 << 30)
    assert not young.exists()


def test_what_the_death_of_a_process_left_of_a_finished_batch_goes(store: Store) -> None:
    batch = add(store)
    finish(store, batch, time.time(), b"rows")
    (store.folder(batch.id) / "inputs").write_bytes(bytes(1000))
    store.tidy(keep_s=1e9, max_bytes=1 << 30)
    assert [path.name for path in store.folder(batch.id).iterdir()] == ["results.ndjson"]


def test_finished_batches_are_not_looked_at_one_by_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: before another one is accepted the database tells their size."""
    for _ in range(3):
        finish(store, add(store), time.time(), bytes(100))
    waiting, (arriving, _) = add(store, content=bytes(10)), store.new_folder()
    looked_at, measure = list[str](), store_module._measure

    def measured(folder: Path) -> tuple[int, float]:
        looked_at.append(folder.name)
        return measure(folder)

    monkeypatch.setattr(store_module, "_measure", measured)
    assert store.unfinished(arriving) == (1, 310)
    assert store.tidy(keep_s=1e9, max_bytes=1000, needed_bytes=5, needed_by=arriving) == 315
    assert set(looked_at) == {waiting.id}


def test_what_is_looked_for_in_the_database_has_an_index(store: Store) -> None:
    add(store)
    queries = (
        "SELECT id FROM batches WHERE status IN ('queued', 'running')",
        "SELECT sum(bytes) AS bytes FROM batches WHERE finished > 0 AND finished <= 1",
        "SELECT * FROM batches WHERE finished IS NOT NULL ORDER BY finished, number LIMIT 1",
    )
    with store.database.reading() as connection:
        for query in queries:
            (plan,) = connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
            assert "USING" in plan["detail"], plan


def test_a_batch_is_deleted_on_a_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its files leave, and the spare, is enough for the database."""
    batch, writing = add(store, content=b"x"), store.database.writing
    store.tidy(keep_s=1e9, max_bytes=1 << 30)
    spare = store.database.root / "spare"
    assert spare.stat().st_blocks * 512 >= 1 << 20

    @contextmanager
    def where_there_is_room(_patience_s: float) -> Iterator[sqlite3.Connection]:
        if store.folder(batch.id).exists() or spare.stat().st_size == 1 << 20:
            raise StorageFailed("full")
        with writing() as connection:
            yield connection

    monkeypatch.setattr(store.database, "writing", where_there_is_room)
    store.delete(batch.id)
    with pytest.raises(BatchNotFound):
        store.get(batch.id)
    store.tidy(keep_s=1e9, max_bytes=1 << 30)
    assert spare.stat().st_size == 1 << 20


def test_a_batch_that_can_not_be_deleted_now_keeps_its_files(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, other = add(store, content=b"x"), sqlite3.connect(store.database.root / database_module.FILE_NAME)
    monkeypatch.setattr(store_module, "REQUEST_S", 0.01)
    with closing(other):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageBusy):
            store.delete(batch.id)
        with pytest.raises(StorageBusy):
            add(store)
    assert (store.folder(batch.id) / "upload").read_bytes() == b"x"
    store.delete(batch.id)


def test_only_a_batch_is_deleted_on_a_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, left = add(store), [StorageFailed("full")]

    def forget(batch_id: str) -> None:
        if left:
            raise left.pop()
        store.get(batch_id)

    monkeypatch.setattr(store, "_forget", forget)
    with pytest.raises(BatchNotFound):
        store.delete("..")
    assert store.folder(batch.id).exists()


def test_a_disk_that_can_not_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_bytes(b"no folder")
    with pytest.raises(StorageFailed):
        Store(tmp_path / "jobs").new_folder()


def test_what_comes_after_the_folder_was_removed_is_kept_where_others_see_it(store: Store, tmp_path: Path) -> None:
    """The one who still has what was removed does no harm to what others have made meanwhile, either."""
    add(store)
    shutil.rmtree(tmp_path / "jobs")
    assert (store.exists, store.newest(9)) == (False, [])
    other = Store(tmp_path / "jobs")
    batches = [add(other), add(store), add(other)]
    other.database.close()
    assert [batch.id for batch in store.newest(9)] == [batch.id for batch in reversed(batches)]


def test_a_disk_that_could_only_be_read_is_written_once_it_can_be(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store)
    again, connect = Store(tmp_path / "jobs"), sqlite3.connect
    with monkeypatch.context() as context:
        context.setattr(sqlite3, "connect", lambda path, **kind: connect(f"file:{path}?mode=ro", uri=True, **kind))
        with pytest.raises(StorageFailed):
            add(again)
    add(again)
    again.database.close()


def test_a_database_that_could_not_be_made_is_made_once_there_is_room(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.setattr(database_module, "SCHEMA", "CREATE TABLE is cut short")
        with pytest.raises(StorageFailed):
            add(store)
    add(store)
