"""Models that are served: watched, and renewed while requests run."""

from __future__ import annotations

import asyncio
import gc
import math
import shutil
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from service import engine as engine_module
from service import serving
from service.app import create_app
from service.classifier import Classifier
from service.errors import DeviceLost, Draining, InferenceFailed, ModelNotFound, NotReady, OutOfMemory, Overloaded
from service.prediction import Prediction
from service.queueing import Priority
from service.serving import ServedModels
from service.settings import Settings
from service.types import Probabilities, Rows
from tests import virtual_time
from tests.conftest import encode, picture, write_colour_model

RED = encode(picture("red"))


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[ServedModels, Classifier]]:
    state = create_app(settings).state
    await state.served.start()
    try:
        yield state.served, state.classifier
    finally:
        await state.served.stop()


@pytest.fixture
def root(models_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models_dir, tmp_path / "models"))


@pytest.fixture
def own(settings: Settings, root: Path) -> Settings:
    """Settings for a repository that the test may change."""
    return settings.model_copy(update={"models_dir": root, "request_timeout_ms": 200})


def version_of(outcome: object) -> str:
    assert isinstance(outcome, Prediction)
    return outcome.model.version


def test_readiness_follows_the_last_inference(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(settings) as (models, _):
            models.check_ready()
            active = models.choose()

            async def fail(_rows: object) -> None:
                raise InferenceFailed("the device is gone")

            monkeypatch.setattr(active.batcher, "_run", fail)
            await models._check_all()
            with pytest.raises(NotReady, match="the device is gone"):
                models.check_ready()
            monkeypatch.setattr(active.batcher, "_run", active.loaded.engine.run)
            await models._check_all()
            models.check_ready()

    asyncio.run(scenario())


def test_heartbeats_are_not_counted_among_the_requests(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as (models, _):
            await models._check_all()
            page = models._metrics.render().decode()
            assert 'convoy_stage_seconds_count{stage="queue"} 0' in page
            assert 'convoy_stage_seconds_count{stage="infer"} 0' in page
            assert 'convoy_batch_size_count{model="colours"} 0' in page
            assert "convoy_batch_closed_total{" not in page

    asyncio.run(scenario())


def test_a_model_that_goes_while_another_is_asked_does_not_end_the_watch(own: Settings, root: Path) -> None:
    write_colour_model(root / "others" / "1")

    async def scenario() -> None:
        async with running(own) as (models, _):
            assert list(models.repository.models) == ["colours", "others"]
            batcher = models.choose("colours").batcher
            run = batcher._run

            async def while_the_other_goes(rows: Rows) -> Probabilities:
                shutil.rmtree(root / "others")
                await models.reload()
                return await run(rows)

            batcher._run = while_the_other_goes
            await models._check_all()
            assert list(models.repository.models) == ["colours"]
            models.check_ready()

    asyncio.run(scenario())


def test_a_request_does_not_wait_for_bulk_work(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(settings) as (models, classifier):
            active, held, go = models.choose(), asyncio.Event(), asyncio.Event()
            infer = active.bulk._run

            async def hold(rows: Rows) -> Probabilities:
                held.set()
                await go.wait()
                return await infer(rows)

            monkeypatch.setattr(active.bulk, "_run", hold)
            bulk = asyncio.create_task(classifier.classify([RED] * 3, priority=Priority.BULK))
            await held.wait()
            assert [type(outcome) for outcome in await classifier.classify([RED])] == [Prediction]
            assert not bulk.done()
            go.set()
            assert [type(outcome) for outcome in await bulk] == [Prediction] * 3

    asyncio.run(scenario())


def test_an_image_waits_for_others_as_long_as_the_settings_say(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "INLINE_S", math.inf)  # there are no threads in virtual time

    async def scenario() -> None:
        async with running(settings.model_copy(update={"max_queue_delay_ms": 250})) as (models, _):
            active, loop = models.choose(), asyncio.get_running_loop()
            began = loop.time()
            await active.batcher.submit(active.loaded.canary)
            assert loop.time() - began == pytest.approx(0.25)

    virtual_time.run(scenario())


def test_no_more_pixels_wait_than_the_settings_say(settings: Settings) -> None:
    pixels = 8 * 8 * 3  # of one image

    async def scenario() -> None:
        async with running(settings.model_copy(update={"queue_bytes": 2 * pixels})) as (models, _):
            active = models.choose()
            for batcher in (active.batcher, active.bulk):
                held, over = asyncio.Event(), asyncio.Event()

                async def hold(rows: Rows, held: asyncio.Event = held, over: asyncio.Event = over) -> Probabilities:
                    held.set()
                    await over.wait()
                    return await active.loaded.engine.run(rows)

                batcher._run = hold
                first = asyncio.create_task(batcher.submit(active.loaded.canary))
                await held.wait()
                second = asyncio.create_task(batcher.submit(active.loaded.canary))
                await asyncio.sleep(0)  # it waits
                assert batcher.refusal(1, pixels) is None
                assert isinstance(batcher.refusal(2, 2 * pixels), Overloaded)
                over.set()
                await asyncio.gather(first, second)

    asyncio.run(scenario())


def test_where_threads_cannot_give_way_both_wait_in_one_queue(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings.model_copy(update={"threads": 2})) as (models, classifier):
            active = models.choose()
            assert active.bulk is active.batcher
            (outcome,) = await classifier.classify([RED], priority=Priority.BULK)
            assert isinstance(outcome, Prediction)

    asyncio.run(scenario())


def test_it_is_not_ready_before_it_is_started(settings: Settings) -> None:
    with pytest.raises(NotReady, match="not started"):
        create_app(settings).state.served.check_ready()


def test_a_lost_device_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEARTBEAT_S", 0.01)

    async def scenario() -> None:
        async with running(settings) as (models, _):
            told = asyncio.Event()
            models.on_lost = told.set
            models.choose().loaded.engine.lost = True
            await asyncio.wait_for(told.wait(), 10)

    asyncio.run(scenario())


def test_a_full_queue_is_no_illness_while_batches_are_answered(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "HEARTBEAT_S", 2.0)
    monkeypatch.setattr(engine_module, "INLINE_S", math.inf)  # there are no threads in virtual time

    async def scenario() -> None:
        async with running(settings.model_copy(update={"max_batch_size": 1})) as (models, _):
            active = models.choose()
            infer, engine = active.batcher._run, asyncio.Lock()

            async def slowly(rows: Rows) -> Probabilities:
                async with engine:  # a batch that was handed over ahead waits: 12 take 3 s, longer than a heartbeat
                    await asyncio.sleep(0.25)
                    return await infer(rows)

            monkeypatch.setattr(active.batcher, "_run", slowly)
            waiting = [asyncio.create_task(active.batcher.submit(active.loaded.canary)) for _ in range(12)]
            await asyncio.sleep(0)
            await models._check_all()
            assert not all(request.done() for request in waiting), "the canary did not have to wait"
            models.check_ready()
            await asyncio.gather(*waiting)

    virtual_time.run(scenario())


def test_a_device_that_never_answers_makes_it_unready_and_after_a_while_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "HEARTBEAT_S", 0.02)

    async def scenario() -> None:
        async with running(settings) as (models, _):
            told, active = asyncio.Event(), models.choose()
            models.on_lost = told.set

            async def never(_rows: Rows) -> Probabilities:
                await asyncio.Event().wait()
                raise AssertionError

            monkeypatch.setattr(active.batcher, "_run", never)
            while models._silent.get(active.loaded.identity.name, 0) < serving.HUNG - 1:
                assert not told.is_set(), "it was given up too soon"
                await asyncio.sleep(0.005)
            with pytest.raises(NotReady, match="has not answered"):
                models.check_ready()
            request = asyncio.create_task(active.batcher.submit(active.loaded.canary))
            await asyncio.wait_for(told.wait(), 10)
            with pytest.raises(Draining):
                await request

    asyncio.run(scenario())


def test_a_device_that_fails_for_good_is_told_at_once_and_makes_it_unready(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(settings) as (models, classifier):
            told: list[bool] = []
            models.on_lost = lambda: told.append(True)

            def fail(_rows: object) -> None:
                raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

            monkeypatch.setattr(models.choose().loaded.engine, "_run", fail)
            with pytest.raises(DeviceLost) as raised:
                await classifier.classify([RED])
            assert (raised.value.status, raised.value.retry_after_s) == (503, 1)
            assert told
            with pytest.raises(NotReady, match="about to be replaced"):
                models.check_ready()

    asyncio.run(scenario())


def test_a_device_without_room_for_one_image_makes_it_unready_until_there_is(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(settings) as (models, classifier):
            engine = models.choose().loaded.engine

            def fail(_rows: object) -> None:
                raise RuntimeError("Failed to allocate memory for requested buffer of size 939524096")

            with monkeypatch.context() as full:
                full.setattr(engine, "_run", fail)
                with pytest.raises(OutOfMemory) as raised:
                    await classifier.classify([RED] * 3)
                assert (raised.value.status, raised.value.slug, raised.value.retry_after_s) == (503, "overloaded", 1)
                await models._check_all()
                with pytest.raises(NotReady, match="no memory"):
                    models.check_ready()
            await models._check_all()
            models.check_ready()
            assert not engine.lost

    asyncio.run(scenario())


def test_a_new_version_takes_over_and_who_chose_the_old_one_still_gets_it(
    own: Settings, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(own.model_copy(update={"request_timeout_ms": 3_600_000})) as (models, classifier):
            loop = asyncio.get_running_loop()
            now = loop.time
            before = models.choose()
            write_colour_model(root / "colours" / "3", scale=0.03)
            shutil.rmtree(root / "colours" / "2")
            await models.reload()
            assert version_of((await classifier.classify([RED]))[0]) == "3"
            assert version_of((await classifier.classify([RED], model=before))[0]) == "2"
            with pytest.raises(ModelNotFound):
                models.choose("colours", "2")
            monkeypatch.setattr(loop, "time", lambda: now() + 3600)
            await asyncio.wait_for(asyncio.gather(*models._retiring.values()), 10)
            assert before.loaded.engine not in models._served
            models.check_ready()

    asyncio.run(scenario())


def test_a_version_that_is_retired_answers_no_more_and_leaves_the_memory(
    own: Settings, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(own.model_copy(update={"request_timeout_ms": 1})) as (models, classifier):
            before = models.choose()
            engine, close = weakref.ref(before.loaded.engine), Mock()
            shutil.rmtree(root / "colours" / "2")
            with monkeypatch.context() as patch:
                patch.setattr(before.loaded.engine, "close", close)
                await models.reload()
                await asyncio.gather(*models._retiring.values())
            close.assert_called_once_with()
            with pytest.raises(Draining):
                await classifier.classify([RED], model=before)
            before.loaded.engine.close()
            del before
            gc.collect()
            assert engine() is None

    asyncio.run(scenario())


def test_versions_that_did_not_change_stay_what_they_are(own: Settings, root: Path) -> None:
    async def scenario() -> None:
        async with running(own) as (models, _):
            before = models.choose("colours", "1")
            write_colour_model(root / "colours" / "3")
            await models.reload()
            assert models.choose("colours", "1") is before
            assert not models._retiring

    asyncio.run(scenario())


def test_a_version_that_goes_and_comes_back_is_served(own: Settings, root: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(own) as (models, classifier):
            (root / "colours" / "2").rename(tmp_path / "2")
            await models.reload()
            (tmp_path / "2").rename(root / "colours" / "2")
            await models.reload()
            await asyncio.wait_for(asyncio.gather(*models._retiring.values()), 10)
            assert version_of((await classifier.classify([RED]))[0]) == "2"

    asyncio.run(scenario())


def test_a_broken_new_version_changes_nothing(own: Settings, root: Path) -> None:
    async def scenario() -> None:
        async with running(own) as (models, classifier):
            (write_colour_model(root / "colours" / "3") / "model.onnx").write_bytes(b"broken")
            await models.reload()
            assert version_of((await classifier.classify([RED]))[0]) == "2"
            assert ("colours", "3") in models.repository.failed

    asyncio.run(scenario())


def test_a_repository_without_the_default_model_changes_nothing(
    own: Settings, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(own) as (models, classifier):
            shutil.rmtree(root / "colours")
            await models.reload()
            assert version_of((await classifier.classify([RED]))[0]) == "2"

    asyncio.run(scenario())
    assert "the models stay what they were: The default model colours can't be served" in caplog.text


def test_a_look_that_fails_changes_nothing_and_the_next_one_comes_about(
    own: Settings, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(own) as (models, classifier):
            write_colour_model(root / "colours" / "3")
            with monkeypatch.context() as patch:
                patch.setattr(models.repository, "look", Mock(side_effect=RuntimeError("can't start new thread")))
                await models.reload()
            assert version_of((await classifier.classify([RED]))[0]) == "2"
            await models.reload()
            assert version_of((await classifier.classify([RED]))[0]) == "3"

    asyncio.run(scenario())
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.getMessage() == "the models stay what they were"
