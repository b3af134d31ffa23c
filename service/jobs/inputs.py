"""What every source gives: inputs, in an order that is always the same, each of which can be read or says why not."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import BinaryIO

from service.errors import InvalidImage, InvalidSource
from service.types import RGBImage

Content = bytes | RGBImage  # encoded, or pixels that need no decoding
MOST_ID_LENGTH = 1024  # characters; an id stands in every row, so it must not be a way to fill the disk
GRACE_BYTES = 64 << 20
BOMB = "The batch unpacks to far more than its own size; send its images in parts."
NO_ROOM = "The batch unpacks to more than there is room for; send it in parts, or once others are finished or deleted."


@dataclass(frozen=True, slots=True)
class Input:
    """One thing to be scored. `read` raises `InvalidImage`; it works until the next input is asked for."""

    id: str | None  # None: a row without one
    read: Callable[[], Content]
    truth: str | None = None  # the label it is known to have
    anywhere: bool = False  # `read` works at any time, and in any process that sees the same files

    def content(self) -> Content | InvalidImage:
        """What was read, or why there is nothing."""
        try:
            return self.read()
        except InvalidImage as exc:
            return exc


class Budget:
    """What a source may still unpack to, or a spool still hold."""

    def __init__(self, bytes_: int, beyond: str = NO_ROOM) -> None:
        self._left, self._beyond = bytes_, beyond

    def spend(self, bytes_: int) -> None:
        """Raise `InvalidSource` once it is used up."""
        self._left -= bytes_
        if self._left < 0:
            raise InvalidSource(self._beyond)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a source may ask of the machine."""

    max_image_bytes: int = 20 << 20
    max_inputs: int = 100_000_000
    max_ratio: int = 100  # bytes unpacked per byte packed, beyond a grace: more is a bomb
    max_unpacked_bytes: int = 1 << 50
    room_bytes: int = 1 << 50  # that others leave it, for now

    def budget(self, packed_bytes: int) -> Budget:
        """How much a source of so many bytes may unpack to."""
        too_large = f"A batch may unpack to {self.max_unpacked_bytes:,} bytes at most; send it in parts."
        plausible_bytes = packed_bytes * self.max_ratio + GRACE_BYTES
        bounds = [(plausible_bytes, BOMB), (self.max_unpacked_bytes, too_large), (self.room_bytes, NO_ROOM)]
        return Budget(*min(bounds, key=itemgetter(0)))  # of equal ones the first: what no waiting helps against

    def check_count(self, inputs: int) -> None:
        """Raise `InvalidSource` when there are too many."""
        if inputs > self.max_inputs:
            raise InvalidSource(f"A batch may hold {self.max_inputs:,} images at most; split it.")

    def too_large(self) -> InvalidImage:
        """What an input of too many bytes is answered with."""
        return InvalidImage(f"An image may have {self.max_image_bytes:,} bytes at most; send a smaller one.")


ReadStream = Callable[[BinaryIO, int, Limits], Iterator[Input]]  # a seekable file and its size → its inputs


def refused(id_: str | None, reason: str) -> Input:
    """An input that is answered with an error; `reason` says what to do."""

    def read() -> Content:
        raise InvalidImage(reason)

    return Input(id_, read)


def text(name: str) -> str:
    """A file's name as a row can show it: with marks where it is no UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def member(name: str, read: Callable[[], Content]) -> Input:
    """An archive's member: its folder's name may be its label. A path that leads out is refused."""
    parts = text(name).replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or parts[0].endswith(":"):
        return refused(
            text(name)[:MOST_ID_LENGTH], "The member's path leads out of the archive; pack it with a relative path."
        )
    return _placed(text(name), parts, read)


def stored(name: str, read: Callable[[], Content]) -> Input:
    """A folder's file, likewise; it was found where it is, so backslashes and colons in its path mean nothing."""
    return _placed(text(name), text(name).split("/"), read, anywhere=True)


def _placed(name: str, parts: list[str], read: Callable[[], Content], *, anywhere: bool = False) -> Input:
    if len(name) > MOST_ID_LENGTH:
        return refused(name[:MOST_ID_LENGTH], f"A path may have {MOST_ID_LENGTH} characters at most; shorten it.")
    return Input(name, read, parts[-2] if len(parts) > 1 else None, anywhere)


def hidden(name: str) -> bool:
    """Whether a path is of a kind that no one means to score: dot-files, and what macOS puts beside each file."""
    parts = name.replace("\\", "/").split("/")
    return any((part[:1] == "." and part not in (".", "..")) or part == "__MACOSX" for part in parts)


def is_below(path: str, folders: set[str]) -> bool:
    """Whether one of them holds it."""
    while (above := posixpath.dirname(path)) not in ("", path):
        if above in folders:
            return True
        path = above
    return False
