"""A chunk's images → outcomes, piece by piece beside requests."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest

from service.errors import DeviceLost, InferenceFailed, InvalidImage, Overloaded
from service.jobs import pieces as pieces_module
from service.jobs.pieces import Pieces
from service.queueing import Priority
from tests import virtual_time

IMAGES = [b"%d" % index for index in range(63)]


def served(*, background: bool = False) -> Mock:
    """A model of which 32 images may go at a time."""
    return Mock(loaded=Mock(engine=Mock(max_batch_size=32, background=background or None, lost=False)))


class Echo:
    """A classifier whose outcomes are the images, where it has nothing to raise at first."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors, self.asked = list(errors), list[int]()

    async def classify(self, images: Sequence[Any], *, model: Mock, priority: Priority) -> list[Any]:
        assert model.loaded.engine.max_batch_size == 32
        assert priority is Priority.BULK
        self.asked.append(len(images))
        if error := self.errors.pop(0) if self.errors else None:
            raise error
        return list(images)


def classify(pieces: Pieces, model: Mock, images: Sequence[bytes | InvalidImage] = IMAGES) -> list[Any]:
    return virtual_time.run(pieces.classify(images, model))


def pieces_of(echo: Echo) -> Pieces:
    return Pieces(echo)  # type: ignore[arg-type]  # it has what they ask of a classifier


def test_pieces_grow_while_they_are_quick_and_shrink_when_requests_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    echo, model = Echo(), served()
    pieces = pieces_of(echo)
    monkeypatch.setattr(pieces_module, "PIECE_S", math.inf)
    assert classify(pieces, model) == IMAGES
    assert echo.asked == [1, 2, 4, 8, 16, 32]
    monkeypatch.setattr(pieces_module, "PIECE_S", 0)
    assert classify(pieces, model) == IMAGES
    assert echo.asked[6:] == [32, 16, 8, 4, 2, 1]
    assert len(classify(pieces, model, IMAGES[:2])) == 2
    assert echo.asked[12:] == [1, 1]


def test_a_piece_that_is_not_full_says_nothing_of_larger_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_module, "PIECE_S", math.inf)
    echo, model = Echo(), served()
    pieces = pieces_of(echo)
    for count in (1, 1, 1, 6):
        classify(pieces, model, IMAGES[:count])
    assert echo.asked == [1, 1, 1, 2, 4]


@pytest.mark.parametrize(("image_s", "asked"), [(0.0005, [1, 2, 4, 8, 8]), (0.003, [1, 1, 1]), (0.02, [1, 1, 1])])
def test_pieces_take_no_longer_than_a_request_may_wait(
    image_s: float, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one doubled that would then have to be halved."""

    class Slow(Echo):
        async def classify(self, images: Sequence[Any], *, model: Mock, priority: Priority) -> list[Any]:
            await asyncio.sleep(image_s * len(images))
            return await super().classify(images, model=model, priority=priority)

    echo = Slow()
    monkeypatch.setattr(pieces_module, "time", Mock(monotonic=lambda: asyncio.get_running_loop().time()))
    classify(pieces_of(echo), served(), IMAGES[: sum(asked)])
    assert echo.asked == asked


def test_where_bulk_work_has_a_thread_of_its_own_pieces_are_as_large_as_the_engine_takes() -> None:
    echo = Echo()
    assert classify(pieces_of(echo), served(background=True)) == IMAGES
    assert echo.asked == [32, 31]


def test_requests_have_the_event_loop_to_themselves_before_each_piece() -> None:
    turns = list[int]()

    async def scenario() -> None:
        loop, echo = asyncio.get_running_loop(), Echo()

        def turn() -> None:
            turns.append(len(echo.asked))
            loop.call_soon(turn)

        loop.call_soon(turn)
        await pieces_of(echo).classify(IMAGES[:1], served())

    asyncio.run(scenario())
    assert turns.count(0) == pieces_module.TURNS


def test_images_on_which_the_engine_fails_have_its_error_and_the_others_their_outcomes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pieces_module, "PIECE_S", math.inf)
    error = InferenceFailed("The model failed.")
    assert classify(pieces_of(Echo(None, error)), served(), IMAGES[:4]) == [IMAGES[0], error, error, IMAGES[3]]


def test_while_too_much_waits_requests_go_first_and_nothing_is_lost() -> None:
    echo = Echo(Overloaded("busy"), Overloaded("busy", retry_after_s=3600))

    async def scenario() -> float:
        assert len(await pieces_of(echo).classify(IMAGES[:1], served())) == 1
        return asyncio.get_running_loop().time()

    assert virtual_time.run(scenario()) == 3601
    assert echo.asked == [1, 1, 1]


def test_no_outcome_of_a_lost_device_counts() -> None:
    model = served()
    model.loaded.engine.lost = True
    with pytest.raises(DeviceLost):
        classify(pieces_of(Echo()), model)
