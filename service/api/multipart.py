"""A multipart/form-data stream → its files, in memory, with every part and the number of parts bounded on the way."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import BodyTooLarge, MalformedRequest, TooManyImages

EXTENDED_FILENAME = re.compile(rb"(?i);\s*filename\*\s*=\s*([\w-]*)'[^']*'([^;\s]*)")
FIELDS_BESIDE_FILES = 64  # form fields that are no files; they are read over
HEADER_BYTES = 4 << 10  # of a line of a part's head; names of files may be long
SEMICOLONS = 64  # in a part's Content-Disposition: the parser reads all before each of them anew


@dataclass(slots=True)
class File:
    """One file part."""

    filename: str | None
    content: bytes


@dataclass
class _Files:
    """The parser's callbacks: collects file parts, skips the others."""

    max_files: int
    max_file_bytes: int
    files: list[File] = field(default_factory=list)  # until they are taken
    complete: bool = False
    _seen: int = 0
    _fields: int = 0
    _header_name: bytearray = field(default_factory=bytearray)
    _header_value: bytearray = field(default_factory=bytearray)
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _content: bytearray | None = None
    _filename: str | None = None
    _unchosen: bool = False  # what a browser sends of a file field where none was chosen, if it is empty, too (HTML)

    def on_part_begin(self) -> None:
        self._headers.clear()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def on_headers_finished(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        if disposition.count(b";") > SEMICOLONS:
            raise MalformedRequest(
                f"A part's Content-Disposition may have {SEMICOLONS} semicolons at most; send a plainer name."
            )
        given = parse_options_header(disposition)[1].get(b"filename")
        extended = EXTENDED_FILENAME.search(disposition) if given is None else None
        if given is None and extended is None and not self._is_image():
            self._fields += 1
            if self._fields > FIELDS_BESIDE_FILES:
                raise MalformedRequest(
                    f"A form may have {FIELDS_BESIDE_FILES} fields beside its files at most; leave out the others."
                )
            self._content = None
            return
        self._seen += 1
        if self._seen > self.max_files:
            raise TooManyImages(f"A request may hold {self.max_files:,} images at most; split it.")
        self._filename = _filename(given, extended)
        self._unchosen = given == b""
        self._content = bytearray()

    def _is_image(self) -> bool:
        """By its media type."""
        kind = self._headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        return kind == b"application/octet-stream" or kind.startswith(b"image/")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._content is None:
            return
        if len(self._content) + end - start > self.max_file_bytes:
            raise BodyTooLarge(f"An image may have {self.max_file_bytes:,} bytes at most; send a smaller one.")
        self._content += data[start:end]

    def on_part_end(self) -> None:
        if self._content or (self._content is not None and not self._unchosen):
            self.files.append(File(self._filename, bytes(self._content)))
        self._content = None

    def on_end(self) -> None:
        self.complete = True


def _filename(given: bytes | None, extended: re.Match[bytes] | None) -> str | None:
    """The name that the client gave a file, also as RFC 7578 forbids but some do it: utf-8''%C3%A9.png (RFC 8187)."""
    if given is not None:
        return given.decode("utf-8", "replace") or None
    if extended is None:
        return None
    charset, encoded = (part.decode("latin-1") for part in extended.groups())
    return unquote(encoded, "latin-1" if charset.lower() == "iso-8859-1" else "utf-8", "replace") or None


async def read_files(body: AsyncIterator[bytes], boundary: bytes, *, max_files: int, max_file_bytes: int) -> list[File]:
    """The file parts in order, whatever their field's name; raises as `stream_files` does."""
    return [file async for file in stream_files(body, boundary, max_files=max_files, max_file_bytes=max_file_bytes)]


async def stream_files(
    body: AsyncIterator[bytes], boundary: bytes, *, max_files: int, max_file_bytes: int
) -> AsyncIterator[File]:
    """The file parts as they arrive, so that only one need be in memory.

    Raises `MalformedRequest`, `TooManyImages` or `BodyTooLarge`.
    """
    collected = _Files(max_files, max_file_bytes)
    names = (
        "on_part_begin",
        "on_header_field",
        "on_header_value",
        "on_header_end",
        "on_headers_finished",
        "on_part_data",
        "on_part_end",
        "on_end",
    )
    try:
        callbacks = {name: getattr(collected, name) for name in names}
        parser = MultipartParser(boundary, callbacks, max_header_size=HEADER_BYTES)  # type: ignore[arg-type]  # a TypedDict
        async for chunk in body:
            parser.write(chunk)
            for file in collected.files:
                yield file
            collected.files.clear()
        parser.finalize()
    except FormParserError as exc:
        raise MalformedRequest(
            "The multipart body can't be parsed; let your HTTP client build it and its Content-Type."
        ) from exc
    if not collected.complete:
        raise MalformedRequest("The multipart body ends before its last boundary; send it whole.")
