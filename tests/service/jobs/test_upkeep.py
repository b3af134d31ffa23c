"""How long batches stay, and who has to go for whom."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.jobs import upkeep as upkeep_module
from service.jobs.database import SPARE, SPARE_BYTES
from service.jobs.store import NewBatch, Store
from service.jobs.upkeep import FETCH_S, Upkeep
from tests.service.jobs.stored import IDENTITY, add, finish


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "jobs")
    yield opened
    opened.database.close()


@pytest.fixture(autouse=True)
def rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing else is said, a finished batch takes what its rows do."""
    monkeypatch.setattr(upkeep_module, "BESIDE_RESULTS", 0)


def upkeep(store: Store, max_bytes: int = 1 << 30, keep_s: float = 1e9) -> Upkeep:
    return Upkeep(store, keep_s, max_bytes)


def test_old_batches_go_when_they_are_finished(store: Store) -> None:
    old, new, running = add(store), add(store), add(store)
    finish(store, old, time.time() - 100)
    finish(store, new, time.time() - 10)
    upkeep(store, keep_s=50).tidy()
    assert [batch.id for batch in store.newest(9)] == [running.id, new.id]


def test_before_the_first_batch_nothing_is_in_use(store: Store) -> None:
    assert upkeep(store).unfinished() == (0, 0)
    assert upkeep(store).tidy() == 0
    assert not store.root.exists()


def test_folders_that_no_batch_is_called_as_stay(store: Store) -> None:
    """Whoever points the service at a folder may have had it before."""
    foreign = [store.root / name for name in ("batch-1/thesis.txt", "batch-of-mine/photo.jpg", "arriving/parcel.txt")]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not the service's")
        os.utime(path, (1, 1))
        os.utime(path.parent, (1, 1))
    upkeep(store).tidy()
    assert all(path.exists() for path in foreign)


def test_nobody_else_may_look_into_the_folder_that_is_made_for_batches(store: Store) -> None:
    store.new_folder()
    assert store.root.stat().st_mode & 0o077 == 0


def test_a_finished_batch_takes_more_than_its_rows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 of one picture each took 17 times as much."""
    monkeypatch.setattr(upkeep_module, "BESIDE_RESULTS", 500)
    for _ in range(4):
        finish(store, add(store), time.time() - FETCH_S - 1, bytes(10))
    assert upkeep(store).tidy() == 4 * 510
    assert upkeep(store, 1100).tidy() == 2 * 510
    assert len(store.newest(9)) == 2


def test_a_batch_takes_room_while_it_is_scored(store: Store) -> None:
    waits, runs = add(store, content=bytes(100)), add(store, content=bytes(200))
    with store.database.writing() as connection:
        connection.execute("UPDATE batches SET status = 'running' WHERE number = ?", [runs.number])
    assert upkeep(store).unfinished() == (2, 300)
    assert upkeep(store).unfinished(waits.id).bytes == 200


def test_what_another_process_removes_meanwhile_is_removed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    delete = store.delete

    def twice(batch_id: str) -> None:
        delete(batch_id)
        delete(batch_id)

    monkeypatch.setattr(store, "delete", twice)
    for _ in range(2):
        finish(store, add(store), time.time() - FETCH_S - 1, bytes(1000))
    assert upkeep(store, 100).tidy() == 0


def test_what_has_just_finished_stays_whatever_needs_room(store: Store) -> None:
    """Else who sent it may come too late for its rows."""
    old, new, (arriving, _) = add(store), add(store), store.new_folder()
    finish(store, old, time.time() - FETCH_S - 1, bytes(1000))
    finish(store, new, time.time(), bytes(1000))
    assert upkeep(store).unfinished(arriving) == (0, 1000)
    assert upkeep(store, 100).tidy() == 1000
    assert [batch.id for batch in store.newest(9)] == [new.id]
    assert upkeep(store, 1500).make_room(arriving, 501) == 1501
    assert upkeep(store, 1500, keep_s=-1).tidy() == 501


def test_none_goes_for_what_has_no_room_beside_what_has_just_finished(store: Store) -> None:
    old, new, (arriving, _) = add(store), add(store), store.new_folder()
    finish(store, old, time.time() - FETCH_S - 1, bytes(1000))
    finish(store, new, time.time(), bytes(1000))
    assert upkeep(store, 2000).make_room(arriving, 1001) == 3001
    assert len(store.newest(9)) == 2


def test_the_oldest_finished_go_where_room_is_needed(store: Store) -> None:
    batches, (arriving, _) = [add(store, content=bytes(1000)) for _ in range(4)], store.new_folder()
    for age, batch in enumerate(batches[:3]):
        finish(store, batch, time.time() - FETCH_S - 10 + age, bytes(1000))
    assert upkeep(store, 3000).make_room(arriving, 500) == 2500
    assert [batch.id for batch in store.newest(9)] == [batches[3].id, batches[2].id]
    store.discard(arriving)
    assert upkeep(store, 100).tidy() == 1000  # what runs stays, whatever it takes


def test_the_oldest_is_whichever_was_finished_first(store: Store) -> None:
    first, second = add(store), add(store)
    finish(store, first, time.time() - FETCH_S - 1, bytes(1000))
    finish(store, second, time.time() - FETCH_S - 2, bytes(1000))
    assert upkeep(store, 1000).tidy() == 1000
    assert [batch.id for batch in store.newest(9)] == [first.id]


def test_room_is_kept_for_the_day_when_the_disk_is_full(store: Store) -> None:
    add(store)
    upkeep(store).tidy()
    assert (store.root / SPARE).stat().st_size == SPARE_BYTES


def test_none_goes_for_what_has_no_room_even_so(store: Store) -> None:
    batches, (arriving, _) = [add(store), add(store, content=bytes(1000))], store.new_folder()
    finish(store, batches[0], time.time() - FETCH_S - 1, bytes(1000))
    assert upkeep(store, 2500).make_room(arriving, 1501) == 3501
    assert len(store.newest(9)) == 2
    assert upkeep(store, 2500).make_room(arriving, 1500) == 2500
    assert [batch.id for batch in store.newest(9)] == [batches[1].id]


def test_what_has_arrived_is_not_counted_beside_what_is_needed(store: Store) -> None:
    batch, (arriving, folder) = add(store), store.new_folder()
    (folder / "upload").write_bytes(bytes(700))
    finish(store, batch, time.time(), bytes(1000))
    assert upkeep(store, 2000).make_room(arriving, 1000) == 2000
    assert len(store.newest(9)) == 1


def test_what_is_still_to_come_of_an_upload_is_not_there_for_another(store: Store) -> None:
    (first, _), (second, folder) = store.new_folder(), store.new_folder()
    assert upkeep(store, 2000).make_room(first, 1500) == 1500
    assert upkeep(store, 2000).make_room(second, 700) == 2200
    store.discard(first)
    (folder / "upload").write_bytes(bytes(600))
    assert upkeep(store, 2000).tidy() == 700
    (folder / "upload").write_bytes(bytes(800))
    assert upkeep(store, 2000).tidy() == 800


def test_a_batch_takes_what_it_has_not_what_was_expected(store: Store) -> None:
    batch_id, folder = store.new_folder()
    upkeep(store, 2000).make_room(batch_id, 1500)
    (folder / "upload").write_bytes(bytes(600))
    store.create(NewBatch(batch_id, IDENTITY, None, "zip", None, "x"))
    assert upkeep(store, 2000).tidy() == 600


def test_uploads_that_never_ended_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store)
    _, young = store.new_folder()
    _, old = store.new_folder()
    os.utime(old, (0, 0))
    upkeep(store).tidy()
    assert young.exists()
    assert not old.exists()
    monkeypatch.setattr(upkeep_module, "ORPHAN_S", -1)
    upkeep(store).tidy()
    assert not young.exists()


def test_an_upload_that_still_arrives_stays_however_long_it_takes(store: Store) -> None:
    _, folder = store.new_folder()
    (folder / "upload").write_bytes(b"its last bytes so far")
    os.utime(folder, (0, 0))  # when the file was made
    upkeep(store).tidy()
    assert folder.exists()


def test_what_was_expected_of_a_batch_that_is_there_is_forgotten(store: Store) -> None:
    batch = add(store)
    store.arriving(batch.id).write_text("1500", encoding="ascii")  # as where it could not be removed
    finish(store, batch, time.time(), bytes(100))
    upkeep(store).tidy()
    assert upkeep(store).unfinished() == (0, 100)


def test_what_the_death_of_a_process_left_of_a_finished_batch_goes(store: Store) -> None:
    batch = add(store)
    finish(store, batch, time.time(), b"rows")
    (store.folder(batch.id) / "inputs").write_bytes(bytes(1000))
    upkeep(store).tidy()
    assert [path.name for path in store.folder(batch.id).iterdir()] == ["results.ndjson"]


def test_finished_batches_are_not_looked_at_one_by_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: before another one is accepted the database tells their size."""
    for _ in range(3):
        finish(store, add(store), time.time(), bytes(100))
    waiting, (arriving, _) = add(store, content=bytes(10)), store.new_folder()
    looked_at, measure = list[str](), upkeep_module._measure

    def measured(folder: Path) -> tuple[int, float]:
        looked_at.append(folder.name)
        return measure(folder)

    monkeypatch.setattr(upkeep_module, "_measure", measured)
    assert upkeep(store).unfinished(arriving) == (1, 310)
    assert upkeep(store, 1000).make_room(arriving, 5) == 315
    assert set(looked_at) == {waiting.id}


def test_what_is_looked_for_in_the_database_has_an_index(store: Store) -> None:
    add(store)
    queries = (
        "SELECT id FROM batches WHERE status IN ('queued', 'running')",
        "SELECT count(*) AS count, sum(bytes) AS bytes FROM batches WHERE finished > 0 AND finished <= 1",
        "SELECT * FROM batches WHERE finished IS NOT NULL ORDER BY finished, number LIMIT 1",
    )
    with store.database.reading() as connection:
        for query in queries:
            (plan,) = connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
            assert "USING" in plan["detail"], plan
