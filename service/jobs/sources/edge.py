"""What stores raise → `InvalidSource`: some have classes of their own, which are no `OSError`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.errors import InvalidSource, ServiceError
from service.jobs.inputs import Input, text

BUFFER = 1 << 20


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
        place = exc.filename if isinstance(exc, OSError) and isinstance(exc.filename, str) else path
        raise InvalidSource(f"{text(place)} can't be read: {reason}.") from exc


def guarded(path: str, inputs: Iterator[Input]) -> Iterator[Input]:
    """The inputs, as long as they can be found."""
    with as_invalid_source(path):
        yield from inputs


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
