"""What stores raise → `InvalidSource`: some have classes of their own, which are no `OSError`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any, BinaryIO

from service.errors import InvalidSource, ServiceError
from service.jobs.inputs import Input, text

BUFFER = 1 << 20
ONE_AT_A_TIME = Lock()


@contextmanager
def as_invalid_source(path: str) -> Iterator[None]:
    """Whatever is raised becomes `InvalidSource`, about `path` or the file below it that the exception names."""
    try:
        yield
    except (ServiceError, MemoryError):
        raise
    except Exception as exc:
        reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
        if isinstance(exc, FileNotFoundError) and not exc.strerror:  # all that it says is the path
            reason = "it is not there"
        if isinstance(exc, TimeoutError) and not exc.strerror:  # fsspec's, or that of what it is built on
            reason = "its store takes too long"
        if "range requests" in reason:  # fsspec's advice is for who writes Python
            reason = "its server gives no parts of a file; download it first"
        if isinstance(exc, PermissionError):
            reason += "; make it readable, or leave it out"
        place = exc.filename if isinstance(exc, OSError) and isinstance(exc.filename, str) else path
        raise InvalidSource(f"{text(place)} can't be read: {reason}.") from exc


def guarded(path: str, inputs: Iterator[Input]) -> Iterator[Input]:
    """The inputs, as long as they can be found."""
    with as_invalid_source(path):
        yield from inputs


@contextmanager
def opened(open_file: Callable[[], io.RawIOBase], *, at_once: bool) -> Iterator[BinaryIO]:
    """A store's file, which goes on where the store gives less than was asked for.

    Many stores serve one thread at a time, not all `at_once`: an archive's members (`tar://`) share one open file.
    """
    with nullcontext() if at_once else ONE_AT_A_TIME, io.BufferedReader(open_file()) as stream:
        yield stream


class Stream:
    """A store's file, whose reading raises nothing but `InvalidSource`."""

    def __init__(self, stream: io.RawIOBase, path: str) -> None:
        # Not every store's file has `readline` with a size, or reads as much as it is asked for.
        self._stream, self._path = io.BufferedReader(stream, BUFFER), path

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - all else that a file has
        return getattr(self._stream, name)

    def read(self, size: int = -1) -> bytes:
        """As of any file."""
        with as_invalid_source(self._path):
            return self._stream.read(size)

    def readline(self, size: int = -1) -> bytes:
        """As of any file."""
        with as_invalid_source(self._path):
            return self._stream.readline(size)
