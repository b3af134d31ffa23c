"""Zip archives → their members, one at a time, as the central directory lists them; nothing is unpacked to disk.

A member that is no plain file, is encrypted, too large or damaged has its error in its place. An archive that can't be
read on, or that unpacks to more than its budget, raises `InvalidSource`. The standard library's reader would hold the
whole directory as objects: some 10 GB for the largest upload.
Source: PKWARE, APPNOTE.TXT 6.3.10, sections 4.3.6, 4.3.7, 4.3.12, 4.3.14 to 4.3.16.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, NamedTuple

from service.errors import InvalidImage, InvalidSource
from service.jobs.inputs import Budget, Input, Limits, hidden, member

BLOCK = 256 << 10
LOCAL, MEMBER = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L")
END64, LOCATOR, END = struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL"), struct.Struct("<4s4H2LH")
ZIP64_FIELD, UNKNOWN = 1, 0xFFFFFFFF
ENCRYPTED, UTF8 = 1 << 0, 1 << 11
STORED, DEFLATED = 0, 8
UNIX, FILE_TYPE, REGULAR = 3, 0o170000, 0o100000
DAMAGED = "The archive's member is damaged; pack it again."
DIRECTORY_DAMAGED = "The zip archive's table of contents is damaged; pack it again."


class _Directory(NamedTuple):
    """Where a zip archive's table of contents is."""

    start: int
    size: int
    members: int
    shift: int  # bytes before the archive itself


@dataclass(frozen=True, slots=True)
class _Member:
    """One row of it."""

    name: str
    flags: int
    method: int
    checksum: int
    packed_bytes: int
    unpacked_bytes: int
    mode: int  # of Unix, 0 where unknown
    offset: int  # of its local header


def zip_inputs(stream: BinaryIO, size: int, limits: Limits) -> Iterator[Input]:
    """A zip's members."""
    directory = _find_directory(stream, size)
    limits.check_count(directory.members)
    budget = limits.budget(size)
    seen = 0
    for entry in _entries(stream, directory):
        if entry.name.endswith("/") or hidden(entry.name):
            continue
        seen += 1
        limits.check_count(seen)
        yield member(entry.name, partial(_unzip, stream, entry, directory, limits, budget))


def is_zip(stream: BinaryIO, size: int) -> bool:
    """Whether the file ends as a zip archive does, whatever it begins with."""
    try:
        return bool(_find_directory(stream, size))
    except InvalidSource:
        return False


def _find_directory(stream: BinaryIO, size: int) -> _Directory:
    tail_start = max(0, size - END.size - 0xFFFF)
    stream.seek(tail_start)
    tail = stream.read(size - tail_start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < END.size:
        raise InvalidSource("The zip archive has no end; it was cut off. Send it whole.")
    _, _, _, _, members, length, start, _ = END.unpack_from(tail, at)
    end = tail_start + at
    if at >= LOCATOR.size and tail[at - LOCATOR.size :][:4] == b"PK\x06\x07":
        position = LOCATOR.unpack_from(tail, at - LOCATOR.size)[2]
        if position >= size:
            raise InvalidSource(DIRECTORY_DAMAGED)
        stream.seek(position)
        record = stream.read(END64.size)
        if len(record) == END64.size and record[:4] == b"PK\x06\x06":
            *_, members, length, start = END64.unpack(record)
            end = position
    shift = end - length - start
    if shift < 0:
        raise InvalidSource(DIRECTORY_DAMAGED)
    return _Directory(start + shift, length, members, shift)


def _entries(stream: BinaryIO, directory: _Directory) -> Iterator[_Member]:
    """The central directory, read block by block between the members."""
    buffer, position, left = bytearray(), directory.start, directory.size
    while left or buffer:
        needed = MEMBER.size
        if len(buffer) >= MEMBER.size:
            needed += sum(MEMBER.unpack_from(buffer)[10:13])
        if len(buffer) < needed:
            stream.seek(position)
            block = stream.read(min(max(BLOCK, needed), left))
            if not block:
                raise InvalidSource(DIRECTORY_DAMAGED)
            buffer += block
            position, left = position + len(block), left - len(block)
        elif bytes(buffer[:4]) != b"PK\x01\x02":
            raise InvalidSource(DIRECTORY_DAMAGED)
        else:
            yield _entry(buffer)
            del buffer[:needed]


def _entry(buffer: bytearray) -> _Member:
    (_, made_by, _, flags, method, _, _, checksum, packed, unpacked, name_length, extra_length, _, _, _, attributes,
     offset) = MEMBER.unpack_from(buffer)  # fmt: skip
    name = bytes(buffer[MEMBER.size :][:name_length])
    extra = bytes(buffer[MEMBER.size + name_length :][:extra_length])
    numbers = _zip64(extra)
    unpacked, packed, offset = (
        next(numbers, value) if value == UNKNOWN else value for value in (unpacked, packed, offset)
    )
    unix = made_by >> 8 == UNIX
    mode = attributes >> 16 if unix else 0
    return _Member(_text(name, flags, unix=unix), flags, method, checksum, packed, unpacked, mode, offset)


def _text(name: bytes, flags: int, *, unix: bool) -> str:
    """A member's name. Info-ZIP's `zip` and macOS write UTF-8 without the flag that says so."""
    if flags & UTF8:
        return name.decode("utf-8", "surrogateescape")
    try:
        return name.decode("utf-8" if unix else "cp437")
    except UnicodeDecodeError:
        return name.decode("cp437")


def _zip64(extra: bytes) -> Iterator[int]:
    """The numbers that did not fit into 32 bits."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == ZIP64_FIELD:
            content = extra[4 : 4 + length]
            yield from (struct.unpack_from("<Q", content, at)[0] for at in range(0, len(content) - 7, 8))
        extra = extra[4 + length :]


def _unzip(stream: BinaryIO, entry: _Member, directory: _Directory, limits: Limits, budget: Budget) -> bytes:
    if entry.mode & FILE_TYPE not in (0, REGULAR):
        raise InvalidImage("The archive's member is a link or no plain file; pack the image itself.")
    if entry.flags & ENCRYPTED:
        raise InvalidImage("The archive's member is encrypted; pack it without a password.")
    if entry.method not in (STORED, DEFLATED):
        raise InvalidImage("The archive's member is compressed in a rare way; pack it stored or deflated.")
    if max(entry.unpacked_bytes, entry.packed_bytes) > limits.max_image_bytes:
        raise limits.too_large()
    budget.spend(max(entry.unpacked_bytes, entry.packed_bytes))  # members may share what is read for each
    if (position := entry.offset + directory.shift) >= directory.start:  # members come before it (4.3.6)
        raise InvalidImage(DAMAGED)
    stream.seek(position)
    header = stream.read(LOCAL.size)
    if len(header) < LOCAL.size or header[:4] != b"PK\x03\x04":
        raise InvalidImage(DAMAGED)
    *_, name_length, extra_length = LOCAL.unpack(header)
    stream.seek(name_length + extra_length, 1)
    content = stream.read(entry.packed_bytes)
    if entry.method == DEFLATED:
        try:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, entry.unpacked_bytes + 1)
        except zlib.error as exc:
            raise InvalidImage(DAMAGED) from exc
    if len(content) != entry.unpacked_bytes or zlib.crc32(content) != entry.checksum:
        raise InvalidImage(DAMAGED)
    return content
