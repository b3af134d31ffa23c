"""Who works on what, and what becomes of it whoever dies."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from service.errors import InvalidSource, StorageFailed
from service.jobs import store as store_module
from service.jobs import work as work_module
from service.jobs.database import Batch
from service.jobs.store import NewBatch, Store
from service.jobs.work import PREPARING, Claim, Work
from service.prediction import ModelIdentity
from tests.conftest import COLOURS

IDENTITY = ModelIdentity("colours", "1", "sha256:0", COLOURS)
Workers = Callable[..., Work]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(store_module, "CHUNK_INPUTS", 10)
    opened = Store(tmp_path / "jobs")
    yield opened
    opened.database.close()


@pytest.fixture
def worker(store: Store) -> Iterator[Workers]:
    """Makes workers, each like a process of its own."""
    made: list[Work] = []

    def make(lease_s: float = 30.0) -> Work:
        made.append(Work(store, lease_s))
        return made[-1]

    yield make
    for work in made:
        work.close()


def add(store: Store, total: int | None, identity: ModelIdentity = IDENTITY) -> Batch:
    batch_id, folder = store.new_folder()
    (folder / "upload").write_bytes(b"")
    return store.create(NewBatch(batch_id, identity, None, "zip", None, "x", total))


def rows(claim: Claim) -> bytes:
    first, count = claim.span
    return b"".join(b"%d\n" % index for index in range(first, first + count))


def results(store: Store, batch: Batch) -> bytes:
    return (store.folder(batch.id) / "results.ndjson").read_bytes()[: store.get(batch.id).bytes]


def expected(total: int) -> bytes:
    return b"".join(b"%d\n" % index for index in range(total))


def claimed(work: Work) -> Claim:
    claim = work.claim()
    assert claim
    return claim


def test_an_upload_is_read_by_one_process_before_its_chunks_are_claimed(store: Store, worker: Workers) -> None:
    batch = add(store, None)
    one, two = worker(), worker()
    claim = claimed(one)
    assert (claim.chunk, claim.batch.status, claim.batch.started) == (PREPARING, "running", None)
    assert two.claim() is None
    one.prepared(claim, 15)
    assert not (store.folder(batch.id) / "upload").exists()
    assert [claimed(one).span, claimed(two).span] == [(0, 10), (10, 5)]
    assert store.get(batch.id).started
    assert one.claim() is None


def test_a_batch_begins_with_its_first_chunk_and_not_anew_with_each(store: Store, worker: Workers) -> None:
    add(store, 20)
    work = worker()
    first, second = claimed(work), claimed(work)
    assert first.batch.started == second.batch.started is not None


def test_rows_are_appended_in_order_whoever_is_first(store: Store, worker: Workers) -> None:
    batch, work = add(store, 25), worker()
    first, second, third = (claimed(work) for _ in range(3))
    work.finish(second, rows(second), 2)
    work.finish(third, rows(third), 0)
    assert (results(store, batch), store.get(batch.id).done) == (b"", 0)
    work.finish(first, rows(first), 1)
    found = store.get(batch.id)
    assert results(store, batch) == expected(25)
    assert (found.status, found.done, found.failed) == ("succeeded", 25, 3)


def test_rows_that_are_written_leave_the_next_chunk_to_who_has_it(store: Store, worker: Workers) -> None:
    batch, work = add(store, 20), worker()
    first, second = claimed(work), claimed(work)
    work.finish(first, rows(first), 0)
    assert work.renew(second)
    work.finish(second, rows(second), 0)
    assert results(store, batch) == expected(20)


def test_the_oldest_batch_comes_first(store: Store, worker: Workers) -> None:
    first, second = add(store, 10), add(store, 10)
    work = worker()
    assert [claimed(work).batch.id for _ in range(2)] == [first.id, second.id]


def test_a_dead_processes_work_is_taken_over_at_once(store: Store, worker: Workers) -> None:
    add(store, 10)
    one, two = worker(), worker()
    claim = claimed(one)
    assert two.claim() is None
    one.close()  # as the kernel does for a process that is killed
    assert claimed(two).chunk == claim.chunk


def test_what_followed_on_work_that_is_taken_over_is_not_done_again(store: Store, worker: Workers) -> None:
    add(store, 40)
    one, two = worker(), worker()
    assert [claimed(work).chunk for work in (one, two, two)] == [0, 1, 2]
    one.close()
    assert [claimed(two).chunk for _ in range(2)] == [0, 3]


def test_nothing_stays_of_processes_that_died_while_they_had_no_work(store: Store, worker: Workers) -> None:
    add(store, 10)
    one, two = worker(), worker()
    claimed(one)
    (store.database.root / "worker-dead").touch()
    two.tidy()
    assert len(list(store.database.root.glob("worker-*"))) == 1
    assert two.claim() is None


def test_a_batch_is_scored_by_those_who_have_its_model(store: Store, worker: Workers) -> None:
    other = replace(IDENTITY, name="shapes")
    first, second = add(store, 10, other), add(store, 10)
    one, two = worker(), worker()
    assert two.claim({"shapes 2 sha256:0"}, 60) is None
    claim = one.claim({"colours 1 sha256:0"}, 60)
    assert claim
    assert claim.batch.id == second.id
    one.close()
    assert two.claim({"shapes 2 sha256:0"}, 60) is None  # nor takes it over
    claim = two.claim({"shapes 1 sha256:0"}, 60)
    assert claim
    assert (claim.batch.id, claim.nobodys) == (first.id, False)


def test_an_upload_is_read_by_whoever_comes(store: Store, worker: Workers) -> None:
    add(store, None)
    assert worker().claim(set(), 60)


def test_a_batch_is_nobodys_when_no_living_process_has_its_model(store: Store, worker: Workers) -> None:
    add(store, 10)
    one, two = worker(), worker()
    assert one.claim(set(), 60) is None
    claim = two.claim({"colours 1 sha256:0"}, 60)
    assert claim
    two.release(claim)
    assert one.claim(set(), 0) is None
    two.close()
    assert one.claim(set(), 60) is None
    claim = one.claim(set(), 0)
    assert claim
    assert claim.nobodys


def test_a_stuck_processes_work_is_taken_over_after_its_lease(store: Store, worker: Workers) -> None:
    batch = add(store, 10)
    stuck, other = worker(lease_s=-1), worker()
    late = claimed(stuck)
    claim = claimed(other)
    stuck.finish(late, b"too late\n", 0)
    assert not stuck.renew(late)
    assert other.renew(claim)
    other.finish(claim, rows(claim), 0)
    assert results(store, batch) == expected(10)


def test_work_that_was_let_go_is_taken_over_at_once(store: Store, worker: Workers) -> None:
    add(store, 10)
    one, two = worker(), worker()
    one.release(claimed(one))
    assert two.claim()


def test_a_batch_that_failed_waits_while_others_are_worked_on(store: Store, worker: Workers) -> None:
    bad, good = add(store, 20), add(store, 20)
    work, another = worker(), worker()
    work.postpone(claimed(work), 30)
    assert [claimed(each).batch.id for each in (work, another)] == [good.id, good.id]
    assert work.claim() is None
    assert store.get(bad.id).claimed == 1


def test_a_batch_that_has_waited_long_enough_is_worked_on(store: Store, worker: Workers) -> None:
    batch, work = add(store, 20), worker()
    first = claimed(work)
    work.postpone(first, -1)
    for _ in range(2):
        claim = claimed(work)
        work.finish(claim, rows(claim), 0)
    assert results(store, batch) == expected(20)


def test_a_clock_that_is_set_back_keeps_no_batch_from_its_end(
    store: Store, worker: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, 10)
    work = worker()
    work.postpone(claimed(work), 10)
    assert work.claim() is None
    an_hour_ago = Mock(time=lambda: time.time() - 3600, monotonic=time.monotonic)
    monkeypatch.setattr(work_module, "time", an_hour_ago)
    claim = claimed(work)
    assert work.claim() is None  # the new lease counts
    assert work.renew(claim)


def test_what_is_postponed_is_nobodys(store: Store, worker: Workers) -> None:
    add(store, 10)
    work = worker()
    claim = claimed(work)
    work.postpone(claim, 3600)
    assert not work.renew(claim)


def test_what_a_dead_process_had_begun_to_write_is_written_over(store: Store, worker: Workers) -> None:
    batch, work = add(store, 20), worker()
    claim = claimed(work)
    work.finish(claim, rows(claim), 0)
    with (store.folder(batch.id) / "results.ndjson").open("ab") as file:
        file.write(b"10\n11\n1" * 100)
    claim = claimed(work)
    work.finish(claim, rows(claim), 0)
    assert (store.folder(batch.id) / "results.ndjson").read_bytes() == expected(20)


@pytest.mark.parametrize("left", [None, 5])
def test_rows_that_are_lost_are_not_made_good_with_zeros(left: int | None, store: Store, worker: Workers) -> None:
    batch, work = add(store, 20), worker()
    claim = claimed(work)
    work.finish(claim, rows(claim), 0)
    file = store.folder(batch.id) / "results.ndjson"
    file.unlink() if left is None else os.truncate(file, left)
    claim = claimed(work)
    with pytest.raises(InvalidSource, match="send the batch again"):
        work.finish(claim, rows(claim), 0)
    work.fail(claim, InvalidSource("lost"))  # it is still this worker's
    assert store.get(batch.id).status == "failed"


def test_a_full_disk_loses_nothing(store: Store, worker: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, work = add(store, 20), worker()
    claim = claimed(work)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(work_module.os, "fsync", full)  # type: ignore[attr-defined]
        with pytest.raises(StorageFailed):
            work.finish(claim, rows(claim), 0)
    assert store.get(batch.id).done == 0
    work.finish(claim, rows(claim), 0)
    claim = claimed(work)
    work.finish(claim, rows(claim), 0)
    assert results(store, batch) == expected(20)


def test_only_so_many_chunks_wait_for_one(store: Store, worker: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_module, "WINDOW", 3)
    batch, work = add(store, 100), worker()
    first, *others = (claimed(work) for _ in range(3))
    for claim in others:
        work.finish(claim, rows(claim), 0)
    assert work.claim() is None
    work.finish(first, rows(first), 0)
    assert store.get(batch.id).done == 30
    assert work.claim()


def test_a_batch_that_fails_says_why_and_is_not_worked_on(store: Store, worker: Workers) -> None:
    batch, work = add(store, None), worker()
    work.fail(claimed(work), InvalidSource("cut off"))
    found = store.get(batch.id)
    assert found.status == "failed"
    assert "cut off" in (found.error or "")
    assert work.claim() is None


def test_what_is_under_way_of_a_batch_that_fails_is_nobodys_any_more(store: Store, worker: Workers) -> None:
    batch, one, two = add(store, 20), worker(), worker()
    first, second = claimed(one), claimed(two)
    one.fail(first, InvalidSource("cut off"))
    assert not two.renew(second)
    two.close()
    assert one.claim() is None
    assert store.get(batch.id).status == "failed"


def test_a_deleted_batch_takes_no_results(store: Store, worker: Workers) -> None:
    batch, work = add(store, 10), worker()
    claim = claimed(work)
    store.delete(batch.id)
    assert not work.renew(claim)
    work.finish(claim, rows(claim), 0)
    assert not store.folder(batch.id).exists()
    assert work.claim() is None


def test_the_database_does_not_grow_with_the_rows(store: Store, worker: Workers) -> None:
    add(store, 3000)
    work, sizes = worker(), []
    for _ in range(300):
        claim = claimed(work)
        work.finish(claim, rows(claim) * 100, 0)
        with store.database.reading() as connection:
            sizes.append(connection.execute("PRAGMA page_count").fetchone()["page_count"])
    assert sizes[-1] <= sizes[20]


WORKER = """
import random, sys, time
from pathlib import Path
from service.jobs.store import Store
from service.jobs.work import Work
work = Work(Store(Path(sys.argv[1])))
for _ in sys.stdin:
    print("at work", flush=True)
    if (claim := work.claim()) is None:
        time.sleep(0.002)
        continue
    first, count = claim.span
    if random.random() < 0.2:
        work.release(claim)
    else:
        work.finish(claim, b"".join(b"%d\\n" % index for index in range(first, first + count)), 0)
"""
ROUNDS = 40  # of each process between two deaths: however long they take, 800 chunks are enough for seven


@dataclass
class Worker:
    """A process that takes a chunk for each line it is given, and says when it begins to."""

    process: subprocess.Popen[str]
    begun: int = 0  # rounds, as far as it has been listened to
    allowed: int = 0

    def go_on(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("go on\n" * ROUNDS)
        self.process.stdin.flush()
        self.allowed += ROUNDS

    def wait_for(self, rounds: int) -> None:
        """Until it has begun so many, while it goes on."""
        assert self.process.stdout
        while self.begun < rounds:
            assert self.process.stdout.readline() == "at work\n", "a worker failed by itself"
            self.begun += 1

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_processes_that_are_killed_at_any_moment_lose_and_double_nothing(store: Store) -> None:
    batch, chance, kills = add(store, 8_000), random.Random(3), 0
    command = [sys.executable, "-c", WORKER, str(store.folder("").absolute())]
    workers: list[Worker] = []
    try:
        while not store.get(batch.id).ended:
            while len(workers) < 3:
                process = subprocess.Popen(
                    command, cwd=Path(__file__).parents[3], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
                workers.append(Worker(process))
            for worker in workers:
                worker.go_on()
            victim = workers[0]
            victim.wait_for(victim.allowed - chance.randrange(1, ROUNDS))
            victim.kill()
            assert victim.process.returncode == -signal.SIGKILL, "a worker failed by itself"
            kills += 1
            workers.pop(0)
    finally:
        for worker in workers:
            worker.kill()
    assert kills >= 3
    assert results(store, batch) == expected(8_000)
    assert (store.folder(batch.id) / "results.ndjson").stat().st_size == len(expected(8_000))
