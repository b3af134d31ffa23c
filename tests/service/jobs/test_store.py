"""Batches that outlive processes."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from service.errors import BatchNotFound, Conflict, StorageBusy, StorageFailed
from service.jobs import database as database_module
from service.jobs import schema
from service.jobs.store import Store
from service.jobs.upkeep import Upkeep
from tests.service.jobs.stored import add, finish


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "jobs")
    yield opened
    opened.database.close()


def test_a_batch_is_what_it_was_created_as(store: Store) -> None:
    batch = add(store)
    assert store.get(batch.id) == batch
    assert (batch.status, batch.model, batch.total, batch.done) == ("queued", "colours", None, 0)


def test_nothing_is_made_before_the_first_batch(store: Store, tmp_path: Path) -> None:
    assert store.newest(5) == []
    assert Upkeep(store, keep_s=0, max_bytes=0).tidy() == 0
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


def test_a_batch_is_deleted_on_a_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its files leave, and the spare, is enough for the database."""
    batch, writing = add(store, content=b"x"), store.database.writing
    store.database.keep_spare()
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
    store.database.keep_spare()
    assert spare.stat().st_size == 1 << 20


def test_a_batch_that_can_not_be_deleted_now_keeps_its_files(store: Store) -> None:
    batch, other = add(store, content=b"x"), sqlite3.connect(store.database.root / database_module.FILE_NAME)
    with closing(other):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageBusy):
            store.delete(batch.id, patience_s=0.01)
    assert (store.folder(batch.id) / "upload").read_bytes() == b"x"
    store.delete(batch.id)


def test_a_batch_that_has_been_sent_waits_for_a_list_that_is_locked_for_a_while(store: Store) -> None:
    batch = add(store)
    with (
        closing(sqlite3.connect(store.database.root / database_module.FILE_NAME, check_same_thread=False)) as other,
        ThreadPoolExecutor() as threads,
    ):
        other.execute("BEGIN IMMEDIATE")
        accepted = threads.submit(add, store)
        with pytest.raises(StorageBusy):
            store.delete(batch.id, patience_s=0.01)
        other.rollback()
        assert accepted.result(30).status == "queued"


def test_only_a_batch_is_deleted_on_a_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, left = add(store), [StorageFailed("full")]

    def forget(batch_id: str, _patience_s: float) -> None:
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
        context.setattr(schema, "SCHEMA", "CREATE TABLE is cut short")
        with pytest.raises(StorageFailed):
            add(store)
    add(store)
