"""What stores raise, as one sentence."""

from __future__ import annotations

import io
from typing import Any

import pytest
from fsspec.exceptions import FSTimeoutError

from service.errors import InvalidSource
from service.jobs.sources.edge import Stream, as_invalid_source


class Far(io.RawIOBase):
    """A file as stores have it: no line of it can be asked for by size, and little comes at a time."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._content.tell()

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        return self._content.readinto(memoryview(buffer)[:7])

    def readline(self) -> bytes:  # type: ignore[override]
        return self._content.readline()


class BreaksOff(Far):
    """As a connection that ends."""

    def readinto(self, _buffer: object) -> int:
        raise LookupError("cut off")


@pytest.mark.parametrize("how", ["read", "readline"])
def test_a_file_that_breaks_off_says_where(how: str) -> None:
    stream = Stream(BreaksOff(b""), "s3://bucket/rows")
    with pytest.raises(InvalidSource, match="s3://bucket/rows can't be read: cut off"):
        getattr(stream, how)(10)


def test_a_far_file_is_read_as_any_other() -> None:
    stream = Stream(Far(b"a line\nand another\n"), "s3://bucket/rows")
    assert (stream.readline(3), stream.readline(30), stream.tell()) == (b"a l", b"ine\n", 7)
    assert stream.read(100) == b"and another\n"


def test_the_file_that_an_error_names_is_the_one_that_is_told() -> None:
    with pytest.raises(InvalidSource, match="in/a can't be read: No such file"), as_invalid_source("in"):
        raise FileNotFoundError(2, "No such file", "in/a")


def test_what_is_not_there_is_said_to_be() -> None:
    with (
        pytest.raises(InvalidSource, match="http://x/a can't be read: it is not there"),
        as_invalid_source("http://x/a"),
    ):
        raise FileNotFoundError("http://x/a")


def test_a_store_that_takes_too_long_is_said_to() -> None:
    with (
        pytest.raises(InvalidSource, match="http://x/a can't be read: its store takes too long"),
        as_invalid_source("http://x/a"),
    ):
        raise FSTimeoutError


def test_a_server_that_gives_whole_files_only_is_answered_with_what_helps() -> None:
    with pytest.raises(InvalidSource, match=r"gives no parts of a file; download it first\.$"), as_invalid_source("in"):
        raise ValueError("The HTTP server doesn't appear to support range requests. Open with block_size=0.")


@pytest.mark.parametrize("error", [InvalidSource("as it stands"), MemoryError()])
def test_what_is_no_stores_business_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, as_invalid_source("in"):
        raise error
    assert raised.value is error
