"""The flow from pictures to predictions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np
import pytest

from service import classifier as classifier_module
from service import preparation
from service.app import create_app
from service.classifier import Classifier
from service.cores import usable_cores
from service.errors import DeadlineExceeded, InvalidImage, Overloaded
from service.prediction import Prediction
from service.queueing import Priority
from service.serving import ServedModels
from service.settings import Settings
from service.types import RGBImage
from tests.conftest import COLOURS, encode, picture


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[Classifier, ServedModels]]:
    state = create_app(settings).state
    await state.served.start()
    try:
        yield state.classifier, state.served
    finally:
        await state.served.stop()


def test_predictions_keep_the_order_of_the_pictures(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as (classifier, _):
            pictures = [encode(picture(colour)) for colour in (*COLOURS, *reversed(COLOURS))]
            predictions = await classifier.classify(pictures)
            assert [p.label for p in predictions if isinstance(p, Prediction)] == [*COLOURS, *reversed(COLOURS)]

    asyncio.run(scenario())


def test_a_bad_picture_has_its_error_in_its_place(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as (classifier, _):
            results = await classifier.classify([encode(picture("red")), b"no image", encode(picture("blue"))])
            assert [type(result) for result in results] == [Prediction, InvalidImage, Prediction]

    asyncio.run(scenario())


def test_only_bad_pictures_need_no_engine(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as (classifier, _):
            assert [type(result) for result in await classifier.classify([b"", b"x"])] == [InvalidImage] * 2

    asyncio.run(scenario())


def test_large_pictures_are_decoded_off_the_loop_with_the_same_result(settings: Settings) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    noise[..., 1] = 255

    async def scenario() -> None:
        async with running(settings) as (classifier, _):
            (result,) = await classifier.classify([noise])
            assert isinstance(result, Prediction)
            assert result.label == "green"

    assert noise.nbytes > classifier_module.INLINE_BYTES
    asyncio.run(scenario())


@pytest.mark.parametrize("side", [129, 1024])
def test_few_bytes_of_many_pixels_are_decoded_off_the_loop_too(settings: Settings, side: int) -> None:
    large = encode(picture("green", (side, side)), "WEBP", lossless=True)
    assert len(large) < classifier_module.INLINE_BYTES

    async def scenario() -> None:
        async with running(settings) as (classifier, _):
            outcomes = await classifier.classify([large, b"no image", encode(picture("red"))])
            assert [getattr(outcome, "label", None) for outcome in outcomes] == ["green", None, "red"]
            assert classifier._turns._pool._threads

    asyncio.run(scenario())


def test_a_version_can_be_named(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as (classifier, models):
            sure, less_sure = [
                (await classifier.classify([encode(picture("red"))], model=models.choose("colours", version)))[0]
                for version in "12"
            ]
            assert isinstance(sure, Prediction)
            assert isinstance(less_sure, Prediction)
            assert sure.probabilities.max() > less_sure.probabilities.max()

    asyncio.run(scenario())


def test_time_that_is_up_is_deadline_exceeded(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as (classifier, _):
            with pytest.raises(DeadlineExceeded):
                await classifier.classify([encode(picture("red"))], deadline=asyncio.get_running_loop().time() - 1)

    asyncio.run(scenario())


def test_nobody_goes_on_decoding_for_a_request_whose_time_is_up(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, over, decoded = threading.Event(), threading.Event(), list[bytes]()

    def slow(data: bytes, **_limits: int | None) -> RGBImage:
        decoded.append(data)
        begun.set()
        over.wait(30)
        return np.zeros((8, 8, 3), np.uint8)

    async def scenario() -> None:
        async with running(settings) as (classifier, models):
            monkeypatch.setattr(preparation, "decode", slow)
            pictures = [b"x" * classifier_module.INLINE_BYTES] * 3
            loop = asyncio.get_running_loop()
            now, deadline = loop.time, loop.time() + 3600
            asked = asyncio.create_task(classifier.classify(pictures, model=models.choose(), deadline=deadline))
            assert await asyncio.to_thread(begun.wait, 30)
            monkeypatch.setattr(loop, "time", lambda: now() + 7200)  # else it could be up before anybody has begun
            with pytest.raises(DeadlineExceeded, match="before its images were decoded"):
                await asked
            over.set()
            classifier._turns._pool.shutdown(wait=True)
            assert len(decoded) == 1

    asyncio.run(scenario())


def test_work_that_can_wait_is_given_up_in_time_too(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as (classifier, models):
            over = threading.Event()
            with ThreadPoolExecutor(1) as background:
                background.submit(over.wait, 30)
                spec = models.choose().loaded.metadata.input
                deadline = asyncio.get_running_loop().time() + 0.05
                with pytest.raises(DeadlineExceeded):
                    await classifier._prepare([encode(picture("red"))], spec, deadline, background)
                over.set()

    asyncio.run(scenario())


def test_what_clients_have_wait_in_the_background_is_bounded_and_shuts_no_batch_out(settings: Settings) -> None:
    photo = np.zeros((200, 200, 3), np.uint8)
    photo[..., 1] = 255

    async def scenario() -> None:
        async with running(settings.model_copy(update={"queue_bytes": 2 * photo.nbytes})) as (classifier, models):
            background, over = models.choose().loaded.engine.background, threading.Event()
            assert background
            background.submit(over.wait, 30)
            deadline = asyncio.get_running_loop().time() + 3600
            waiting = [
                asyncio.create_task(classifier.classify([photo], deadline=until, priority=Priority.BULK))
                for until in (deadline, deadline, None)
            ]
            await asyncio.sleep(0)  # all of them wait for the thread
            with pytest.raises(Overloaded, match="Too many large images"):
                await classifier.classify([photo], deadline=deadline, priority=Priority.BULK)
            assert isinstance((await classifier.classify([photo], deadline=deadline))[0], Prediction)
            over.set()
            for (outcome,) in await asyncio.gather(*waiting):
                assert isinstance(outcome, Prediction)

    asyncio.run(scenario())


def test_no_more_waits_to_be_decoded_than_the_settings_say(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    over, large = threading.Event(), b"x" * 2 * classifier_module.INLINE_BYTES

    def slow(_data: bytes, **_limits: int | None) -> RGBImage:
        over.wait(30)
        return np.zeros((8, 8, 3), np.uint8)

    async def scenario() -> None:
        limit = {"queue_bytes": len(large), "workers": usable_cores()}  # one thread each
        async with running(settings.model_copy(update=limit)) as (classifier, _):
            monkeypatch.setattr(preparation, "decode", slow)
            first = asyncio.create_task(classifier.classify([large]))
            await asyncio.sleep(0)  # it has begun
            try:
                with pytest.raises(Overloaded, match="Too many large images"):
                    await classifier.classify([large])
            finally:
                over.set()
            assert isinstance((await first)[0], Prediction)

    asyncio.run(scenario())
