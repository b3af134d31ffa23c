"""The flow from pictures to predictions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from service import classifier as classifier_module
from service.app import create_app
from service.classifier import Classifier
from service.errors import DeadlineExceeded, InferenceFailed, InvalidImage, ModelNotFound, NotReady
from service.prediction import Prediction
from service.settings import Settings
from tests.conftest import COLOURS, encode, picture


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Classifier]:
    classifier: Classifier = create_app(settings).state.classifier
    await classifier.start()
    try:
        yield classifier
    finally:
        await classifier.stop()


def test_predictions_keep_the_order_of_the_pictures(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as classifier:
            pictures = [encode(picture(colour)) for colour in (*COLOURS, *reversed(COLOURS))]
            predictions = await classifier.classify(pictures)
            assert [p.label for p in predictions if isinstance(p, Prediction)] == [*COLOURS, *reversed(COLOURS)]

    asyncio.run(scenario())


def test_a_bad_picture_has_its_error_in_its_place(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as classifier:
            results = await classifier.classify([encode(picture("red")), b"no image", encode(picture("blue"))])
            assert [type(result) for result in results] == [Prediction, InvalidImage, Prediction]

    asyncio.run(scenario())


def test_only_bad_pictures_need_no_engine(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as classifier:
            assert [type(result) for result in await classifier.classify([b"", b"x"])] == [InvalidImage] * 2

    asyncio.run(scenario())


def test_large_pictures_are_decoded_off_the_loop_with_the_same_result(settings: Settings) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    noise[..., 1] = 255

    async def scenario() -> None:
        async with running(settings) as classifier:
            (result,) = await classifier.classify([noise])
            assert isinstance(result, Prediction)
            assert result.label == "green"

    assert noise.nbytes > classifier_module.INLINE_BYTES
    asyncio.run(scenario())


def test_a_version_can_be_named(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as classifier:
            sure, less_sure = [
                (await classifier.classify([encode(picture("red"))], model="colours", version=version))[0]
                for version in "12"
            ]
            assert isinstance(sure, Prediction)
            assert isinstance(less_sure, Prediction)
            assert sure.probabilities.max() > less_sure.probabilities.max()
            with pytest.raises(ModelNotFound):
                await classifier.classify([b""], version="3")

    asyncio.run(scenario())


def test_time_that_is_up_is_deadline_exceeded(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as classifier:
            with pytest.raises(DeadlineExceeded):
                await classifier.classify([encode(picture("red"))], deadline=asyncio.get_running_loop().time() - 1)

    asyncio.run(scenario())


def test_readiness_follows_the_last_inference(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(settings) as classifier:
            classifier.check_ready()
            engine = classifier.repository.get("colours").engine
            batcher = classifier._served[classifier.repository.get("colours").identity.digest].batcher

            async def fail(_rows: object) -> None:
                raise InferenceFailed("the device is gone")

            monkeypatch.setattr(batcher, "_run", fail)
            await classifier._check_all()
            with pytest.raises(NotReady, match="the device is gone"):
                classifier.check_ready()
            monkeypatch.setattr(batcher, "_run", engine.run)
            await classifier._check_all()
            classifier.check_ready()

    asyncio.run(scenario())


def test_it_is_not_ready_before_it_is_started(settings: Settings) -> None:
    with pytest.raises(NotReady, match="not started"):
        create_app(settings).state.classifier.check_ready()
