"""CIFAR-10's batch files → images with labels."""

from __future__ import annotations

import numpy as np
import pytest

from service.errors import InvalidSource
from service.jobs.sources.cifar import LABELS
from tests.conftest import generated_records
from tests.service.jobs.packing import inputs

PIXELS, CLASSES = generated_records(20, 0)
IMAGES = PIXELS.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
BINARY = np.concatenate([CLASSES[:, None], PIXELS], 1).tobytes()


def pickled() -> bytes:
    """As Python 2 wrote it: byte strings for everything."""
    names = b"".join(b"K" + bytes([label]) for label in CLASSES.tolist())
    raw = PIXELS.tobytes()
    return (
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(" + names + b"eU\x04dataq\x04T" + len(raw).to_bytes(4, "little")
        + raw + b"u."
    )  # fmt: skip


@pytest.mark.parametrize("content", [BINARY, pickled()], ids=["binary", "python"])
def test_both_versions_give_the_images_and_their_labels(content: bytes) -> None:
    found = list(inputs("cifar-10", content))
    for each, image in zip(found, IMAGES, strict=True):
        assert np.array_equal(np.asarray(each.content()), image)
    assert [each.truth for each in found] == [LABELS[label] for label in CLASSES]
    assert [each.id for each in found] == [str(index) for index in range(20)]


def test_what_is_pickled_is_never_run() -> None:
    hostile = b"\x80\x02cbuiltins\nexit\n)R."
    with pytest.raises(InvalidSource):
        list(inputs("cifar-10", hostile))


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"\x80\x02T\xff\xff\xff\x7f", BINARY[:-1], b"\x0a" + BINARY[1:]])
def test_what_is_no_batch_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidSource):
        list(inputs("cifar-10", content))
