"""Tar archives, plain or compressed → their members, one at a time; nothing is unpacked to disk.

A member that is no plain file or too large has its error in its place. An archive that can't be read on, or that
unpacks to more than its budget, raises `InvalidSource`.
"""

from __future__ import annotations

import gzip
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, Protocol

from service.errors import InvalidSource
from service.jobs.inputs import Budget, Input, Limits, hidden, member, refused

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK = 256 << 10
OF_ONE_MEMBER = {"path", "size"}  # what makes no sense in a header for all that follow
MAGIC, CHECKSUM = slice(257, 262), slice(148, 156)  # of a member's header; the second counts as spaces in its own sum
BROKEN_TAR = "The tar archive is damaged or cut off; send it whole."
ANOTHER_TAR = "Another archive follows the tar archive's end; send each by itself, or pack both into one."
NO_TAR = "There is no tar archive in it, or one damaged from its beginning; what is no archive goes uncompressed."


def is_tar(name: str, head: bytes) -> bool:
    """Whether a file that is called and begins so is a tar archive. The oldest kind has no mark but its checksum.

    One without members is nothing but zeros, and so is many a damaged file.
    """
    if head[MAGIC] == b"ustar":
        return True
    if not any(head):
        return bool(head) and name.endswith(".tar")
    try:
        told = int(head[CHECKSUM].strip(b" \0"), 8)
    except ValueError:
        return False
    return len(head) >= tarfile.BLOCKSIZE and told == sum(head[: tarfile.BLOCKSIZE]) - sum(head[CHECKSUM]) + 8 * 0x20


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes:
        """The next bytes, so many at most."""


Open = Callable[[BinaryIO], _Readable]


class _Forward:
    """What `tarfile` reads from: it may only go forwards, never much at once, never beyond the budget."""

    def __init__(self, stream: _Readable, budget: Budget) -> None:
        self._stream, self._budget, self._most_at_once = stream, budget, BLOCK
        self._position, self._last = 0, b""

    @contextmanager
    def allowing(self, size: int) -> Iterator[None]:
        """So much at once, in the body: headers have little to say, and `tarfile` takes its time over long ones."""
        self._most_at_once = max(size, BLOCK)
        try:
            yield
        finally:
            self._most_at_once = BLOCK

    def tell(self) -> int:
        """Bytes unpacked so far."""
        return self._position

    def seek(self, position: int) -> None:
        """Pass over what lies between."""
        while self._position < position and self.read(min(BLOCK, position - self._position)):
            pass

    def read(self, size: int) -> bytes:
        """The next bytes."""
        if size > self._most_at_once:
            raise InvalidSource("The tar archive has a header of absurd size; pack it again.")
        content = self._stream.read(size)
        self._position += len(content)
        self._budget.spend(len(content))
        self._last = content
        return content

    def check_end(self) -> None:
        """Raise `InvalidSource` unless the block read last marks the end of all: `tarfile` would not mind."""
        if self._last.strip(b"\0") or not self._last:
            raise InvalidSource(BROKEN_TAR)
        while rest := self.read(BLOCK):  # to the end: only there do the decompressors compare checksums
            blocks = (rest[at : at + tarfile.BLOCKSIZE] for at in range(0, len(rest), tarfile.BLOCKSIZE))
            if rest != bytes(len(rest)) and any(is_tar("", block) for block in blocks):  # as `cat` puts them together
                raise InvalidSource(ANOTHER_TAR)


def _tar_inputs(open_: Open, stream: BinaryIO, size: int, limits: Limits) -> Iterator[Input]:
    forward = _Forward(open_(stream), limits.budget(size))
    with _as_invalid_source():
        archive = _archive(forward)
    seen = 0
    while (entry := _next(archive)) is not None:
        if entry.isdir() or hidden(entry.name):
            continue
        seen += 1
        limits.check_count(seen)
        if entry.isreg() and not entry.issparse():
            yield member(entry.name, partial(_untar, archive, forward, entry, limits))
        else:
            yield refused(
                member(entry.name, bytes).id, "The archive's member is a link or no plain file; pack the image itself."
            )
    with _as_invalid_source():
        forward.check_end()


def _archive(forward: _Forward) -> tarfile.TarFile:
    try:
        return tarfile.TarFile(fileobj=forward)  # type: ignore[arg-type]  # all it needs of a file
    except tarfile.ReadError as exc:
        raise InvalidSource(NO_TAR) from exc


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    with _as_invalid_source():
        entry = archive.next()
        archive.members.clear()  # type: ignore[attr-defined]  # it would remember every one of them
        if not OF_ONE_MEMBER.isdisjoint(archive.pax_headers):
            raise InvalidSource("The tar archive has one name or size for all its members; pack it again.")
        # Of owners and times nothing is needed, and it would go through all that it has met at each member.
        archive.pax_headers.clear()  # type: ignore[attr-defined]  # typed as one that is not changed
        return entry


def _untar(archive: tarfile.TarFile, forward: _Forward, entry: tarfile.TarInfo, limits: Limits) -> bytes:
    if entry.size > limits.max_image_bytes:
        raise limits.too_large()
    with _as_invalid_source(), forward.allowing(entry.size):
        file = archive.extractfile(entry)
        return file.read() if file else b""


@contextmanager
def _as_invalid_source() -> Iterator[None]:
    """Whatever a damaged archive raises, nearly anything in `tarfile` and in decompressors, becomes `InvalidSource`."""
    try:
        yield
    except InvalidSource:
        raise
    except Exception as exc:
        raise InvalidSource(BROKEN_TAR) from exc


tar_inputs = partial(_tar_inputs, lambda stream: stream)
tar_gz_inputs = partial(_tar_inputs, lambda stream: gzip.GzipFile(fileobj=stream))
tar_zst_inputs = partial(_tar_inputs, lambda stream: zstd.ZstdFile(stream))
