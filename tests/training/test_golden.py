"""Generated pictures."""

from __future__ import annotations

import numpy as np

from training.golden import pictures


def test_they_are_always_the_same_and_all_different() -> None:
    once = pictures(32, 32)
    assert np.array_equal(once, pictures(32, 32))
    assert once.shape == (64, 32, 32, 3)
    assert once.dtype == np.uint8
    assert len({image.tobytes() for image in once}) == 64
