"""Arrays that come as .npy files."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from starlette.testclient import TestClient

from service.api import npy
from service.api.uploads import INLINE_BYTES
from service.types import Rows

SIDE = 64
PIXELS: Rows = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)


def test_an_array_is_read_without_a_copy_and_put_in_order_when_it_is_asked() -> None:
    data = npy.dump(np.asfortranarray(PIXELS))
    images = npy.read_images(data)
    assert not images.flags.owndata
    in_order = npy.in_order(images)
    assert in_order.flags.c_contiguous
    assert np.array_equal(in_order, PIXELS)


def test_rows_that_are_in_order_are_not_copied() -> None:
    images = npy.read_images(npy.dump(PIXELS))
    assert npy.in_order(images) is images


@pytest.mark.parametrize(("count", "elsewhere"), [(2, False), (INLINE_BYTES // (SIDE * SIDE * 3) + 1, True)])
def test_a_large_array_is_put_in_order_where_it_holds_up_nobody(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, count: int, elsewhere: bool
) -> None:
    read_by: list[int] = []
    ordered_by: list[int] = []
    read_images, in_order = npy.read_images, npy.in_order

    def read(data: bytes) -> Rows:
        read_by.append(threading.get_ident())
        return read_images(data)

    def order(images: Rows) -> Rows:
        ordered_by.append(threading.get_ident())
        return in_order(images)

    monkeypatch.setattr(npy, "read_images", read)
    monkeypatch.setattr(npy, "in_order", order)
    array = np.zeros((count, SIDE, SIDE, 3), np.uint8, order="F")
    answer = client.post("/v1/predict", content=npy.dump(array), headers={"content-type": npy.MEDIA_TYPE})
    assert (answer.status_code, len(answer.json()["predictions"])) == (200, count)
    assert (ordered_by != read_by) == elsewhere
