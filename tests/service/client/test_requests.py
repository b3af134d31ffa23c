"""When a client asks again, and when it does not."""

from __future__ import annotations

import httpx2
import numpy as np
import pytest

from service.client.requests import BREAKS, Patience, Server, asked, asked_in_bulk

BROKEN = httpx2.ReadError("it broke")


def busy(**headers: str) -> httpx2.Response:
    return httpx2.Response(503, headers=headers)


def test_pauses_grow_and_are_not_all_the_same() -> None:
    patience = Patience(60)
    pauses = [patience.pause_s(busy()) for _ in range(5)]
    for number, pause in enumerate(pauses):
        assert pause is not None
        assert 1 <= pause / (0.05 * 2**number) <= 1.25
    assert len(set(pauses)) == 5


def test_the_service_may_say_how_long() -> None:
    pause = Patience(60).pause_s(busy(**{"retry-after": "8"}))
    assert pause is not None
    assert 8 <= pause <= 10


def test_a_service_that_says_at_once_is_not_asked_without_end() -> None:
    patience = Patience(60)
    pauses = [patience.pause_s(busy(**{"retry-after": "0"})) or 0 for _ in range(5)]
    assert pauses[0] >= 0.05
    assert pauses == sorted(pauses)


def test_nobody_waits_beyond_the_end() -> None:
    assert Patience(1).pause_s(busy(**{"retry-after": "8"})) is None
    assert Patience(0).pause_s(busy()) is None
    assert Patience(-1).left_s == 0.001


def test_a_service_without_time_may_be_asked_again_when_it_says_so() -> None:
    """It refuses so what it could not begin within its own limit, however long the client would wait."""
    pause = Patience(60).pause_s(httpx2.Response(504, headers={"retry-after": "8"}))
    assert pause is not None
    assert 8 <= pause <= 10


@pytest.mark.parametrize("status", [200, 400, 401, 404, 413, 422, 500, 504])
def test_every_other_answer_stands(status: int) -> None:
    assert Patience(60).pause_s(httpx2.Response(status)) is None


@pytest.mark.parametrize("status", [200, 404, 413, 500])
def test_every_other_answer_stands_even_if_it_says_when_to_come_back(status: int) -> None:
    assert Patience(60).pause_s(httpx2.Response(status, headers={"retry-after": "8"})) is None


def test_connections_may_break_a_few_times() -> None:
    patience = Patience(60)
    assert all(patience.pause_s(BROKEN) is not None for _ in range(BREAKS - 1))
    assert patience.pause_s(BROKEN) is None


@pytest.mark.parametrize("error", [httpx2.UnsupportedProtocol("ftp"), httpx2.ReadTimeout("too late")])
def test_what_will_not_mend_itself_is_not_tried_again(error: httpx2.TransportError) -> None:
    assert Patience(60).pause_s(error) is None


def test_a_try_says_how_long_the_client_waits_for_it() -> None:
    arguments = Server("http://there/", "k", "m", None, 30).arguments(asked([b"x"], 3, 0.95), 1.5)
    assert arguments["url"] == "http://there/v1/predict"
    assert arguments["params"] == {"model": "m", "top_k": "3", "coverage": "0.95"}
    assert arguments["headers"] == {"x-request-timeout-ms": "1500", "authorization": "Bearer k"}
    assert arguments["timeout"] == 1.5


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)]
)
def test_arrays_that_are_no_pixels_are_not_sent(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"Pixels must be RGB, uint8 \(H, W, 3\)"):
        asked([array], None, None)
    with pytest.raises(ValueError, match=r"Pixels must be RGB, uint8 \(N, H, W, 3\)"):
        asked_in_bulk(array)


def test_one_image_is_not_taken_for_several_nor_several_for_one() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r"these are uint8 \(1, 4, 4, 3\)"):
        asked([image[np.newaxis]], None, None)
    with pytest.raises(ValueError, match=r"these are uint8 \(4, 4, 3\)"):
        asked_in_bulk(image)
