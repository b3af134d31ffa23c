"""Pictures → what their predictions rest on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from service.app import create_app
from service.errors import DeadlineExceeded, InferenceFailed, InvalidImage
from service.explain import GREY, PLACES, Explainer, Explanation, occluded
from service.metrics import Metrics
from service.serving import Served
from service.settings import Settings
from service.types import Probabilities, RGBImage, Rows

HALVES = np.zeros((8, 8, 3), np.uint8)
HALVES[:, :4, 0] = 255  # the left half is red
HALVES[:, 4:, 2] = 250  # the right half is blue, a little less


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[Explainer, Served, Metrics]]:
    state = create_app(settings).state
    await state.served.start()
    explainer = Explainer(state.classifier, settings.client_images)
    try:
        yield explainer, state.served.choose(), state.metrics
    finally:
        explainer.close()
        await state.served.stop()


def in_a_minute() -> float:
    return asyncio.get_running_loop().time() + 60


def explained(
    settings: Settings, picture: bytes | RGBImage, infer: Callable[[Rows], Probabilities] | None = None
) -> Explanation:
    """The explanation of `picture`; `infer` may answer in the model's place."""

    async def scenario() -> Explanation:
        async with running(settings) as (explainer, model, _):
            if infer:
                vars(model.loaded.engine)["_run"] = infer
            return await explainer.explain(picture, model, in_a_minute())

    return asyncio.run(scenario())


def test_few_images_under_way_are_enough(settings: Settings) -> None:
    """The parts are hidden a few at a time then."""
    whole = explained(settings, HALVES)
    few = {"queue_capacity": 8, "max_images_per_request": 4, "client_share": 0.5}
    parts = explained(settings.model_copy(update=few), HALVES)
    np.testing.assert_allclose(parts.occlusion.probabilities, whole.occlusion.probabilities, atol=1e-6)
    assert parts.occlusion.image == whole.occlusion.image


def test_the_square_reaches_every_part_of_the_picture_and_hides_a_quarter_of_each_side() -> None:
    image = np.full((8, 12, 3), 7, np.uint8)
    rows = occluded(image)
    assert rows.shape == (PLACES**2, 8, 12, 3)
    hidden = (rows == GREY).all(-1)
    assert hidden.any(0).all()
    assert (hidden.sum((1, 2)) == 2 * 3).all()
    assert (rows[~hidden] == 7).all()
    assert (image == 7).all()
    assert hidden[0, 0, 0]
    assert hidden[PLACES - 1, 0, 11]
    assert hidden[-1, 7, 11]


def test_pictures_smaller_than_the_square_s_places_are_hidden_one_pixel_at_a_time() -> None:
    hidden = (occluded(np.zeros((2, 1, 3), np.uint8)) == GREY).all(-1)
    assert (hidden.sum((1, 2)) == 1).all()


def test_what_speaks_for_the_label_is_missed_and_what_speaks_against_it_is_not(settings: Settings) -> None:
    prediction, occlusion, stages = explained(settings, HALVES)
    assert prediction.label == "red"
    whole = prediction.probabilities[0]
    assert (occlusion.grid[:, 0] > 0).all()
    assert (occlusion.grid[:, -1] < 0).all()
    assert (occlusion.probabilities[:, 0] < whole).all()
    assert (occlusion.probabilities[:, -1] > whole).all()
    odds = np.log(whole / (1 - whole)) - np.log(occlusion.probabilities / (1 - occlusion.probabilities))
    np.testing.assert_allclose(occlusion.grid, odds, atol=1e-5)
    assert [(stage.name, stage.kind, stage.shape) for stage in stages] == [
        ("conv1", "convolution", (3, 8, 8)),
        ("relu1", "activation", (3, 8, 8)),
        ("mean1", "pooling", (3, 1, 1)),
    ]
    assert all(png.startswith(b"\x89PNG") for png in (occlusion.image, *(stage.image for stage in stages)))


def test_a_network_that_is_quite_sure_has_finite_odds(settings: Settings) -> None:
    def sure(rows: Rows) -> Probabilities:
        return np.tile(np.array([1, 0, 0], np.float32), (len(rows), 1))

    assert (explained(settings, HALVES, sure).occlusion.grid == 0).all()


def test_a_model_that_fails_on_a_hidden_part_fails_the_request(settings: Settings) -> None:
    def failing(rows: Rows) -> Probabilities:
        if (rows[:, 0, 0] == GREY).all(-1).any():
            raise ValueError
        return np.full((len(rows), 3), 1 / 3, np.float32)

    with pytest.raises(InferenceFailed):
        explained(settings, HALVES, failing)


def test_bytes_that_are_no_picture_are_refused(settings: Settings) -> None:
    with pytest.raises(InvalidImage):
        explained(settings, b"no picture")


def test_only_the_picture_itself_is_counted_among_what_was_predicted(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings) as (explainer, model, metrics):
            await explainer.explain(HALVES, model, in_a_minute())
            assert metrics.total("convoy_predictions_total", "colours") == 1

    asyncio.run(scenario())


def test_the_hidden_parts_are_waited_for_until_the_deadline_and_no_longer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release = threading.Event(), threading.Event()

    def slow(rows: Rows) -> Probabilities:
        if (rows[:, 0, 0] == GREY).all(-1).any():
            begun.set()
            release.wait(60)
        return np.full((len(rows), 3), 1 / 3, np.float32)

    async def scenario() -> None:
        async with running(settings) as (explainer, model, _):
            vars(model.loaded.engine).update(_run=slow, _inline_rows=0)  # on a thread of its own
            loop = asyncio.get_running_loop()
            now = loop.time
            asked = asyncio.create_task(explainer.explain(HALVES, model, in_a_minute()))
            try:
                assert await asyncio.to_thread(begun.wait, 30)
                monkeypatch.setattr(loop, "time", lambda: now() + 60)
                with pytest.raises(DeadlineExceeded, match="before its prediction"):
                    await asyncio.wait_for(asked, 10)
            finally:
                release.set()

    asyncio.run(scenario())


def test_who_waits_for_the_drawing_waits_until_the_deadline_and_no_longer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(settings) as (explainer, model, _):
            loop, handed_in, release = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
            now, submit = loop.time, explainer._thread.submit
            busy = submit(release.wait)

            def note(*work: Any) -> Future[Any]:  # noqa: ANN401 - the signature is the thread's
                handed_in.set()
                return submit(*work)

            monkeypatch.setattr(explainer._thread, "submit", note)
            try:
                asked = asyncio.create_task(explainer.explain(HALVES, model, in_a_minute()))
                await asyncio.wait_for(handed_in.wait(), 30)
                monkeypatch.setattr(loop, "time", lambda: now() + 60)  # not earlier: the rest has to be in time
                with pytest.raises(DeadlineExceeded, match="drawn"):
                    await asked
            finally:
                release.set()
            assert busy.result()
            assert (await explainer.explain(HALVES, model, in_a_minute())).stages

    asyncio.run(scenario())
