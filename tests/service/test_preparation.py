"""Pictures on their way to the queue."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from service.errors import ImageTooLarge, InvalidImage
from service.metadata import InputSpec
from service.preparation import Pictures, Preparation, work
from tests.conftest import encode, picture

SPEC = InputSpec(height=8, width=8, resize_policy="squash")


def prepared(pictures: Pictures, max_pixels: int = 1 << 20) -> Preparation:
    preparation = Preparation(pictures, SPEC, max_pixels)
    assert len(list(preparation.steps())) == len(pictures)
    return preparation


def array(*shape: int) -> npt.NDArray[np.uint8]:
    return np.full(shape, 7, np.uint8)


def test_good_pictures_become_rows_and_the_others_keep_their_places() -> None:
    known = InvalidImage("Its base64 is damaged.")
    done = prepared([encode(picture("red")), b"no image", array(8, 8, 3), known, encode(picture("blue", (90, 70)))])
    assert done.rows.shape == (3, 8, 8, 3)
    assert done.rows[1].max() == 7
    assert list(done.invalid) == [1, 3]
    assert done.invalid[3] is known
    assert done.decode_s > 0
    assert done.preprocess_s > 0


def test_no_good_picture_is_no_row() -> None:
    done = prepared([b"", b"x"])
    assert len(done.rows) == 0
    assert list(done.invalid) == [0, 1]


def test_a_single_row_is_not_copied() -> None:
    pixels = array(8, 8, 3)
    assert np.shares_memory(prepared([pixels]).rows, pixels)


def test_too_many_pixels_are_an_error_of_that_picture() -> None:
    done = prepared([encode(picture("red", (40, 40))), encode(picture("red"))], max_pixels=1000)
    assert isinstance(done.invalid[0], ImageTooLarge)
    assert len(done.rows) == 1


@pytest.mark.parametrize(
    ("pictures", "nbytes"),
    [([b"abc", b""], 3), ([array(8, 8, 3)], 0), ([array(9, 8, 3)], 216), ([InvalidImage("No.")], 0), ([], 0)],
)
def test_the_work_is_what_has_to_be_gone_through(pictures: Pictures, nbytes: int) -> None:
    assert work(pictures, SPEC) == nbytes
