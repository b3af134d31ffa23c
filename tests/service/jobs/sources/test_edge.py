"""What stores raise, as one sentence."""

from __future__ import annotations

import io
from typing import BinaryIO, cast

import pytest

from service.errors import InvalidSource
from service.jobs.sources.edge import Stream, told


class BreaksOff(io.BytesIO):
    """As a connection that ends."""

    def read(self, _size: int | None = -1) -> bytes:
        raise LookupError("cut off")

    readline = read


@pytest.mark.parametrize("how", ["read", "readline"])
def test_a_file_that_breaks_off_says_where(how: str) -> None:
    stream = Stream(cast(BinaryIO, BreaksOff()), "s3://bucket/rows")
    with pytest.raises(InvalidSource, match="s3://bucket/rows can't be read: cut off"):
        getattr(stream, how)(10)


def test_the_file_that_an_error_names_is_the_one_that_is_told() -> None:
    with pytest.raises(InvalidSource, match="in/a can't be read: No such file"), told("in"):
        raise FileNotFoundError(2, "No such file", "in/a")


def test_what_is_not_there_is_said_to_be() -> None:
    with pytest.raises(InvalidSource, match="http://x/a can't be read: it is not there"), told("http://x/a"):
        raise FileNotFoundError("http://x/a")


@pytest.mark.parametrize("error", [InvalidSource("as it stands"), MemoryError()])
def test_what_is_no_stores_business_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, told("in"):
        raise error
    assert raised.value is error
