"""A worker process's share in the work for batches."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from service.app import create_app
from service.errors import DeviceLost, InferenceFailed, ModelNotFound, Overloaded, StorageFailed
from service.jobs import lease, pieces, spool
from service.jobs import runner as runner_module
from service.jobs import store as store_module
from service.jobs import upkeep as upkeep_module
from service.jobs.database import Batch
from service.jobs.prepare import Order, ReaderDied, in_a_process
from service.jobs.runner import Runner
from service.jobs.store import NewBatch, Store
from service.jobs.work import Claim
from service.metadata import ModelMetadata
from service.queueing import Priority
from service.settings import Settings
from tests import virtual_time
from tests.conftest import COLOURS, encode, picture, write_colour_model
from tests.service.jobs import stored
from tests.service.jobs.packing import PACKERS

PICTURES = [(f"{i}.png", encode(picture(COLOURS[i % 3]))) for i in range(25)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "IDLE_S", 0.05)
    monkeypatch.setattr(runner_module, "RETRY_S", 0.05)
    monkeypatch.setattr(lease, "POSTPONED_S", 0.05)
    monkeypatch.setattr(runner_module, "BEHIND_S", 0.0)
    monkeypatch.setattr(store_module, "CHUNK_INPUTS", 10)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Any]:
    """The parts of an application whose lifespan has begun: `store`, `runner`, `classifier`, `served`."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app.state


def taking_turns(settings: Settings) -> Settings:
    """As where work that can wait has no thread of its own."""
    return settings.model_copy(update={"threads": 2})


def add(store: Store, content: bytes = PACKERS["zip"](PICTURES), **about: Any) -> Batch:  # noqa: ANN401
    batch_id, folder = store.new_folder()
    (folder / "upload").write_bytes(content)
    identity = about.pop("identity")
    return store.create(NewBatch(batch_id, identity, about.pop("top_k", None), "zip", None, "x"))


async def ended(store: Store, batch: Batch) -> Batch:
    async with asyncio.timeout(60):
        while not (found := store.get(batch.id)).ended:
            await asyncio.sleep(0.01)
    return found


def rows(store: Store, batch: Batch) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store.folder(batch.id) / "results.ndjson").read_bytes().splitlines()]


def looks(runner: Runner, monkeypatch: pytest.MonkeyPatch, *errors: Exception, pieces: int = 0) -> list[float]:
    """When the runner has looked for work, of which there are so many pieces; at first it meets these errors."""
    times, left = list[float](), list(errors)

    async def look() -> bool:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 20:
            raise asyncio.CancelledError  # whoever looks without end would keep the loop
        if left:
            raise left.pop()
        return len(times) <= pieces

    async def nothing() -> None:
        pass

    monkeypatch.setattr(runner, "_do_next", look)
    monkeypatch.setattr(runner, "_tidy", nothing)
    return times


def test_work_is_looked_for_every_second_and_at_once_when_there_is_new(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "IDLE_S", 1.0)
    runner = Runner(Store(settings.jobs_dir), Mock(), Mock(), settings)
    times = looks(runner, monkeypatch)

    async def scenario() -> None:
        runner.start()
        await asyncio.sleep(2.5)
        runner.wake()
        await asyncio.sleep(1.5)
        await runner.stop()

    virtual_time.run(scenario())
    assert times == pytest.approx([0, 1, 2, 2.5, 3.5])


def test_no_while_passes_between_pieces_of_work(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "IDLE_S", 1.0)
    runner = Runner(Store(settings.jobs_dir), Mock(), Mock(), settings)
    times = looks(runner, monkeypatch, pieces=3)

    async def scenario() -> None:
        runner.start()
        await asyncio.sleep(1.5)
        await runner.stop()

    virtual_time.run(scenario())
    assert times == pytest.approx([0, 0, 0, 0, 1])


@pytest.mark.parametrize("error", [StorageFailed("full"), RuntimeError("a mistake")])
def test_after_trouble_that_may_meet_every_batch_a_while_passes(
    error: Exception, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "IDLE_S", 1.0)
    monkeypatch.setattr(runner_module, "RETRY_S", 10.0)
    runner = Runner(Store(settings.jobs_dir), Mock(), Mock(), settings)
    times = looks(runner, monkeypatch, error, error)

    async def scenario() -> None:
        runner.start()
        await asyncio.sleep(21.5)
        await runner.stop()

    virtual_time.run(scenario())
    assert times == pytest.approx([0, 10, 20, 21])


def test_nothing_is_made_where_no_batch_was_ever_kept(settings: Settings) -> None:
    runner = Runner(Store(settings.jobs_dir), Mock(), Mock(), settings)
    assert not virtual_time.run(runner._do_next())
    assert not settings.jobs_dir.exists()


def test_every_image_gets_its_row_at_bulk_priority(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    priorities = set()

    async def scenario() -> None:
        async with running(settings) as state:
            classify = state.classifier.classify

            async def watched(pictures: Sequence[Any], **options: Any) -> Any:  # noqa: ANN401
                priorities.add(options["priority"])
                return await classify(pictures, **options)

            monkeypatch.setattr(state.classifier, "classify", watched)
            batch = add(state.store, identity=state.served.choose().loaded.identity)
            found = await ended(state.store, batch)
            assert (found.status, found.total, found.done, found.failed) == ("succeeded", 25, 25, 0)
            assert [(row["index"], row["id"], row["label"]) for row in rows(state.store, batch)] == [
                (i, name, COLOURS[i % 3]) for i, (name, _) in enumerate(PICTURES)
            ]

    asyncio.run(scenario())
    assert [path.name for path in settings.jobs_dir.glob("batch-*/*")] == ["results.ndjson"]
    assert priorities == {Priority.BULK}


def test_a_chunk_too_large_for_memory_is_read_in_parts(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "read", partial(spool.read, most_bytes=1))

    async def scenario() -> None:
        async with running(settings) as state:
            batch = add(state.store, identity=state.served.choose().loaded.identity)
            await ended(state.store, batch)
            assert [(row["index"], row["id"], row["label"]) for row in rows(state.store, batch)] == [
                (i, name, COLOURS[i % 3]) for i, (name, _) in enumerate(PICTURES)
            ]

    asyncio.run(scenario())


def test_an_upload_that_can_not_be_read_fails_the_batch(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as state:
            identity = state.served.choose().loaded.identity
            found = await ended(state.store, add(state.store, b"no archive", identity=identity))
            assert found.status == "failed"
            assert json.loads(found.error or "")["type"] == "invalid-source"
            found = await ended(state.store, add(state.store, PACKERS["zip"]([]), identity=identity))
            assert json.loads(found.error or "")["type"] == "empty-request"

    asyncio.run(scenario())


def test_a_batch_that_unpacks_to_more_than_all_may_take_fails_as_a_whole(settings: Settings) -> None:
    """Other batches that are not finished leave it less."""
    own, bomb = settings.model_copy(update={"jobs_max_bytes": 300_000}), PACKERS["zip"]([("a.png", bytes(200_000))])

    async def scenario() -> None:
        async with running(own) as state:
            identity = state.served.choose().loaded.identity
            assert (await ended(state.store, add(state.store, bomb, identity=identity))).status == "succeeded"
            (state.store.new_folder()[1] / "upload").write_bytes(bytes(150_000))
            found = await ended(state.store, add(state.store, bomb, identity=identity))
            assert found.status == "failed"
            assert "more than there is room for" in json.loads(found.error or "")["detail"]

    asyncio.run(scenario())
    assert sum(path.stat().st_size for path in settings.jobs_dir.glob("batch-*/*")) < 151_000


def test_a_batch_that_unpacks_to_more_than_eight_times_the_largest_body_is_to_be_sent_in_parts(
    settings: Settings,
) -> None:
    own = settings.model_copy(update={"max_batch_upload_bytes": 20_000})

    async def scenario() -> None:
        async with running(own) as state:
            identity = state.served.choose().loaded.identity
            bomb = PACKERS["zip"]([("a.png", bytes(200_000))])
            found = await ended(state.store, add(state.store, bomb, identity=identity))
            assert found.status == "failed"
            detail = json.loads(found.error or "")["detail"]
            assert detail == "A batch may unpack to 160,000 bytes at most; send it in parts."

    asyncio.run(scenario())


def test_the_settings_say_how_large_an_image_of_a_batch_may_be(settings: Settings) -> None:
    own = settings.model_copy(update={"max_image_bytes": 5000})

    async def scenario() -> None:
        async with running(own) as state:
            content = PACKERS["zip"]([("large.png", bytes(5001)), PICTURES[0]])
            batch = add(state.store, content, identity=state.served.choose().loaded.identity)
            assert (await ended(state.store, batch)).failed == 1
            assert "5,000 bytes at most" in rows(state.store, batch)[0]["error"]["detail"]

    asyncio.run(scenario())


def test_the_settings_say_how_many_images_a_batch_may_have(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings.model_copy(update={"max_batch_images": 24})) as state:
            identity = state.served.choose().loaded.identity
            found = await ended(state.store, add(state.store, identity=identity))
            assert "24 images at most" in json.loads(found.error or "")["detail"]
            fewer = await ended(state.store, add(state.store, PACKERS["zip"](PICTURES[:24]), identity=identity))
            assert fewer.status == "succeeded"

    asyncio.run(scenario())


@pytest.mark.parametrize(("deaths", "status"), [(2, "succeeded"), (3, "failed")])
def test_a_reader_that_is_killed_is_tried_again_a_few_times(
    deaths: int, status: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [ReaderDied("signal 9")] * deaths

    async def mortal(order: Order) -> int:
        if left:
            raise left.pop()
        return await in_a_process(order)

    async def scenario() -> None:
        async with running(settings) as state:
            monkeypatch.setattr(runner_module, "in_a_process", mortal)
            found = await ended(state.store, add(state.store, identity=state.served.choose().loaded.identity))
            assert found.status == status
            assert status == "succeeded" or "too much memory" in json.loads(found.error or "")["detail"]

    asyncio.run(scenario())


def test_a_model_that_is_gone_fails_the_batch(settings: Settings, models_dir: Path, tmp_path: Path) -> None:
    own = settings.model_copy(update={"models_dir": Path(shutil.copytree(models_dir, tmp_path / "models"))})

    async def scenario() -> None:
        async with running(own) as state:
            identity = state.served.choose("colours", "1").loaded.identity
            shutil.rmtree(own.models_dir / "colours" / "1")
            await state.served.reload()
            found = await ended(state.store, add(state.store, identity=identity))
            assert json.loads(found.error or "")["type"] == "model-not-found"

    asyncio.run(scenario())


def test_a_model_that_is_unloaded_while_its_batch_is_scored_keeps_no_other_from_its_end(
    settings: Settings, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Path(shutil.copytree(models_dir, tmp_path / "models"))
    own = settings.model_copy(update={"models_dir": models, "request_timeout_ms": 1})

    async def scenario() -> None:
        async with running(own) as state:
            classify = state.classifier.classify

            async def late(pictures: Sequence[Any], **options: Any) -> Any:  # noqa: ANN401
                if (models / "colours" / "1").exists():
                    shutil.rmtree(models / "colours" / "1")
                    await state.served.reload()
                    await asyncio.gather(*state.served._retiring.values())
                return await classify(pictures, **options)

            monkeypatch.setattr(state.classifier, "classify", late)
            unloaded = add(state.store, identity=state.served.choose("colours", "1").loaded.identity)
            other = add(state.store, identity=state.served.choose("colours", "2").loaded.identity)
            assert json.loads((await ended(state.store, unloaded)).error or "")["type"] == "model-not-found"
            assert (await ended(state.store, other)).status == "succeeded"

    asyncio.run(scenario())


def test_a_batch_for_a_model_that_another_process_has_already_waits_for_it(
    settings: Settings, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "BEHIND_S", 60.0)
    own = settings.model_copy(update={"models_dir": Path(shutil.copytree(models_dir, tmp_path / "models"))})

    async def scenario() -> None:
        async with running(own) as state:
            stored = write_colour_model(own.models_dir / "colours" / "3")
            digest = ModelMetadata.read(stored).files["fp32"].sha256
            identity = replace(state.served.choose().loaded.identity, version="3", digest=f"sha256:{digest}")
            batch, looked, claim = add(state.store, identity=identity), asyncio.Event(), state.runner.work.claim

            def watched(*given: Any) -> Claim | None:  # noqa: ANN401
                found: Claim | None = claim(*given)
                if found is None and state.store.get(batch.id).total:
                    loop.call_soon_threadsafe(looked.set)
                return found

            loop = asyncio.get_running_loop()
            monkeypatch.setattr(state.runner.work, "claim", watched)
            await asyncio.wait_for(looked.wait(), 60)
            assert not state.store.get(batch.id).ended
            await state.served.reload()
            assert (await ended(state.store, batch)).status == "succeeded"

    asyncio.run(scenario())


def test_weights_that_were_exchanged_under_their_version_fail_the_batch(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as state:
            identity = replace(state.served.choose().loaded.identity, digest="sha256:others")
            found = await ended(state.store, add(state.store, identity=identity))
            assert "its weights are others" in json.loads(found.error or "")["detail"]
            assert not rows(state.store, found)

    asyncio.run(scenario())


@pytest.mark.parametrize("left", [None, 0, 100])
def test_a_batch_whose_images_are_lost_or_damaged_fails(left: int | None, settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as state:
            batch_id, folder = state.store.new_folder()
            if left is not None:
                with spool.SpoolWriter(folder) as writer:
                    for id_, content in PICTURES:
                        writer.add(id_, content)
                os.truncate(folder / spool.OFFSETS, left)
            identity = state.served.choose().loaded.identity
            batch = state.store.create(NewBatch(batch_id, identity, None, "zip", None, "x", total=25))
            found = await ended(state.store, batch)
            assert json.loads(found.error or "")["type"] == "invalid-source"
            assert "send the batch again" in json.loads(found.error or "")["detail"]

    asyncio.run(scenario())


@pytest.mark.parametrize(("top_k", "status"), [(None, "failed"), (1, "succeeded")])
def test_a_batch_whose_rows_would_take_more_than_all_may_is_not_begun(
    top_k: int | None, status: str, settings: Settings
) -> None:
    async def scenario() -> None:
        async with running(settings.model_copy(update={"jobs_max_bytes": 300_000})) as state:
            identity = replace(state.served.choose().loaded.identity, labels=tuple(map(str, range(1000))))
            found = await ended(state.store, add(state.store, identity=identity, top_k=top_k))
            assert (found.status, bool(found.bytes)) == (status, status == "succeeded")
            assert status == "succeeded" or "a smaller top_k" in json.loads(found.error or "")["detail"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("image_bytes", "others_bytes", "status"), [(10, 0, "succeeded"), (10, 110_000, "failed"), (5000, 0, "failed")]
)
def test_its_rows_have_the_room_that_its_images_and_other_batches_leave(
    image_bytes: int, others_bytes: int, status: str, settings: Settings
) -> None:
    """Of 200 classes they take about 100,000 bytes."""
    images = PACKERS["zip"]([(f"{index}.png", os.urandom(image_bytes)) for index in range(25)])

    async def scenario() -> None:
        async with running(settings.model_copy(update={"jobs_max_bytes": 200_000})) as state:
            (state.store.new_folder()[1] / "upload").write_bytes(bytes(others_bytes))
            identity = replace(state.served.choose().loaded.identity, labels=tuple(map(str, range(200))))
            found = await ended(state.store, add(state.store, images, identity=identity))
            assert found.status == status
            assert status == "succeeded" or "a smaller top_k" in json.loads(found.error or "")["detail"]

    asyncio.run(scenario())


@pytest.mark.parametrize(("hours", "most_bytes", "stays"), [(3, 1000, True), (1, 1000, False), (3, 999, False)])
def test_the_settings_say_how_long_batches_are_kept_and_how_much_of_them(
    hours: int, most_bytes: int, stays: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "TIDY_S", -1.0)
    monkeypatch.setattr(upkeep_module, "BESIDE_RESULTS", 0)
    store = Store(settings.jobs_dir)
    stored.finish(store, stored.add(store), time.time() - 2 * 3600, bytes(1000))
    own = settings.model_copy(update={"jobs_keep_hours": hours, "jobs_max_bytes": most_bytes})
    asyncio.run(Runner(store, Mock(), Mock(), own)._tidy())
    assert bool(store.newest(1)) == stays
    store.database.close()


def test_it_is_tidied_up_behind_dead_processes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "TIDY_S", 0)

    async def scenario() -> None:
        async with running(settings) as state:
            add(state.store, identity=state.served.choose().loaded.identity)
            (settings.jobs_dir / "worker-dead").touch()
            async with asyncio.timeout(60):
                while (settings.jobs_dir / "worker-dead").exists():
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_a_restart_goes_on_with_every_batch(settings: Settings) -> None:
    batches: list[Batch] = []

    async def begin() -> None:
        async with running(settings) as state:
            batches.extend(add(state.store, identity=state.served.choose().loaded.identity) for _ in range(3))
            async with asyncio.timeout(60):
                while not state.store.get(batches[0].id).done:
                    await asyncio.sleep(0.001)

    async def go_on() -> None:
        async with running(settings) as state:
            for batch in batches:
                assert (await ended(state.store, batch)).status == "succeeded"
                assert [row["index"] for row in rows(state.store, batch)] == list(range(25))

    asyncio.run(begin())
    asyncio.run(go_on())


@pytest.mark.parametrize(
    "error", [StorageFailed("full"), RuntimeError("a mistake"), Overloaded("busy"), ModelNotFound("just gone")]
)
def test_trouble_that_passes_costs_nothing(
    error: Exception, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(settings) as state:
            classify, left = state.classifier.classify, [error] * 3

            async def failing(pictures: Sequence[Any], **options: Any) -> Any:  # noqa: ANN401
                if left:
                    raise left.pop()
                return await classify(pictures, **options)

            monkeypatch.setattr(state.classifier, "classify", failing)
            batch = add(state.store, identity=state.served.choose().loaded.identity)
            assert (await ended(state.store, batch)).status == "succeeded"
            assert [row["index"] for row in rows(state.store, batch)] == list(range(25))

    asyncio.run(scenario())


def test_a_batch_whose_trouble_stays_keeps_no_other_from_its_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(settings) as state:
            identity = state.served.choose().loaded.identity
            score, bad = state.runner._score, add(state.store, identity=identity)

            async def failing(claim: Claim) -> None:
                if claim.batch.id == bad.id:
                    raise StorageFailed("this folder's disk")
                await score(claim)

            monkeypatch.setattr(state.runner, "_score", failing)
            monkeypatch.setattr(lease, "POSTPONED_S", 50)
            assert (await ended(state.store, add(state.store, identity=identity))).status == "succeeded"
            assert not state.store.get(bad.id).ended

    asyncio.run(scenario())


def test_an_image_on_which_the_engine_fails_has_its_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(taking_turns(settings)) as state:
            classify = state.classifier.classify

            async def failing(pictures: Sequence[Any], **options: Any) -> Any:  # noqa: ANN401
                if any(content == PICTURES[7][1] for content in pictures):
                    raise InferenceFailed("The model failed.")
                return await classify(pictures, **options)

            monkeypatch.setattr(pieces, "PIECE_S", 0)  # one image at a time
            monkeypatch.setattr(state.classifier, "classify", failing)
            batch = add(state.store, identity=state.served.choose().loaded.identity)
            assert (await ended(state.store, batch)).failed == 8
            assert rows(state.store, batch)[7]["error"]["type"] == "internal-error"

    asyncio.run(scenario())


def test_what_a_lost_device_failed_on_is_scored_by_who_comes_next(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(settings) as state:
            classify, engine = state.classifier.classify, state.served.choose().loaded.engine
            lost: list[bool] = []

            async def failing(pictures: Sequence[Any], **options: Any) -> Any:  # noqa: ANN401
                engine.lost = not lost  # once; then it is as if another process had taken over
                if engine.lost:
                    lost.append(True)
                    return [DeviceLost()] * len(pictures)
                return await classify(pictures, **options)

            monkeypatch.setattr(state.classifier, "classify", failing)
            batch = add(state.store, identity=state.served.choose().loaded.identity)
            assert (await ended(state.store, batch)).failed == 0
            assert lost
            assert [row["index"] for row in rows(state.store, batch)] == list(range(25))

    asyncio.run(scenario())


def test_work_for_a_batch_that_is_deleted_stops(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(settings) as state:
            state.runner.work.lease_s = 0.03
            begun, never = asyncio.Event(), asyncio.Event()

            async def stuck(_pictures: object, **_options: object) -> None:
                begun.set()
                await never.wait()

            classify = state.classifier.classify
            monkeypatch.setattr(state.classifier, "classify", stuck)
            identity = state.served.choose().loaded.identity
            batch = add(state.store, identity=identity)
            await asyncio.wait_for(begun.wait(), 60)
            state.store.delete(batch.id)
            monkeypatch.setattr(state.classifier, "classify", classify)
            assert (await ended(state.store, add(state.store, identity=identity))).status == "succeeded"

    asyncio.run(scenario())


@asynccontextmanager
async def at_work(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runner]:
    """A runner in the middle of a chunk that never ends by itself."""
    async with running(settings) as state:
        begun, never = asyncio.Event(), asyncio.Event()

        async def stuck(_pictures: object, **_options: object) -> None:
            begun.set()
            await never.wait()

        monkeypatch.setattr(state.classifier, "classify", stuck)
        add(state.store, identity=state.served.choose().loaded.identity)
        await asyncio.wait_for(begun.wait(), 60)
        yield state.runner


def test_a_stop_does_not_wait_for_ever(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    locked, free = threading.Event(), threading.Event()

    def wait(_claim: Claim) -> None:
        locked.set()
        free.wait()

    async def scenario() -> None:
        async with at_work(settings, monkeypatch) as runner:
            monkeypatch.setattr(runner_module, "STOP_S", 0.05)
            monkeypatch.setattr(runner.work, "release", wait)
            close = Mock(wraps=runner._store.database.close)
            monkeypatch.setattr(runner._store.database, "close", close)
            try:
                async with asyncio.timeout(60):
                    await runner.stop()
                assert locked.is_set()
                close.assert_not_called()  # it waits for whoever has the database
            finally:
                free.set()
            assert runner._task
            await asyncio.wait([runner._task])

    asyncio.run(scenario())
    assert "did not stop" in caplog.text


def test_an_end_of_the_work_that_nobody_asked_for_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with at_work(settings, monkeypatch) as runner:
            assert runner._task
            runner._task.cancel()
            await asyncio.wait([runner._task])
        async with at_work(settings, monkeypatch):
            pass
        async with at_work(settings, monkeypatch) as runner:
            assert runner._task
            runner._models.draining = True
            runner._task.cancel()
            await asyncio.wait([runner._task])

    asyncio.run(scenario())
    told = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert [record.message for record in told] == ["this process does no more work for batches; restart it"]
