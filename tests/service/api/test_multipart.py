"""Multipart streams, however they are cut into chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api import multipart
from service.api.multipart import FIELDS_BESIDE_FILES, HEADER_BYTES, SEMICOLONS, File, read_files
from service.errors import BodyTooLarge, MalformedRequest, ServiceError, TooManyImages

BODY = (
    b'--b\r\nContent-Disposition: form-data; name="x"; filename="a.png"\r\n\r\nfirst\r\n'
    b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\nno file\r\n'
    b'--b\r\nContent-Disposition: form-data; name="x"; filename=""\r\nContent-Type: image/png\r\n\r\n'
    b"\r\n--bad\r\n\r\n--b--\r\n"
)


def read(chunks: list[bytes]) -> list[File]:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return asyncio.run(read_files(stream(), b"b", max_files=4, max_file_bytes=100))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_chunk_borders_do_not_matter(size: int) -> None:
    files = read([BODY[i : i + size] for i in range(0, len(BODY), size)])
    assert files == [File("a.png", b"first"), File(None, b"\r\n--bad\r\n")]


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"Content-Disposition: form-data; name=x; filename*=utf-8''%C3%A9%20a.png", "é a.png"),
        (b"Content-Disposition: form-data; name=x; filename*=ISO-8859-1'en'%E9.png", "é.png"),
        (b"Content-Disposition: form-data; name=x; filename=b.png; filename*=utf-8''a.png", "b.png"),
        (b"Content-Disposition: form-data; name=x; filename*=utf-8''", None),
        (b"Content-Disposition: form-data; name=x; filename*=utf-8''%E9.png", "\ufffd.png"),
        (b"Content-Disposition: form-data; name=x; filename=\xe9.png", "\ufffd.png"),
        (b"Content-Disposition: form-data; name=x\r\nContent-Type: image/png", None),
        (b"Content-Disposition: form-data; name=x\r\nContent-Type: application/octet-stream; a=b", None),
        (b"Content-Disposition: form-data; name=x\r\nContent-Type: IMAGE/PNG", None),
        (b"Content-Disposition: form-data; name=x\r\nContent-Type: Application/Octet-Stream ; a=b", None),
    ],
)
def test_what_is_a_file_without_a_plain_filename_is_not_read_over(head: bytes, name: str | None) -> None:
    assert read([b"--b\r\n" + head + b"\r\n\r\nfirst\r\n--b--\r\n"]) == [File(name, b"first")]


@pytest.mark.parametrize("missing", [4, len(b"--b--\r\n"), 20])
def test_a_body_that_is_cut_off_is_not_taken_for_whole(missing: int) -> None:
    with pytest.raises(MalformedRequest, match=r"ends before its last boundary; send it whole\.$"):
        read([BODY[:-missing]])


def test_a_file_field_where_none_was_chosen_is_no_file() -> None:
    """As browsers send it; one that has a name, or no such parameter, is a file without content."""

    def sent(disposition: bytes) -> list[File]:
        head = b"Content-Disposition: form-data; name=x" + disposition + b"\r\nContent-Type: application/octet-stream"
        return read([b"--b\r\n" + head + b"\r\n\r\n\r\n--b--\r\n"])

    assert sent(b'; filename=""') == []
    assert sent(b'; filename="a.png"') == [File("a.png", b"")]
    assert sent(b"") == [File(None, b"")]


def test_a_field_with_a_media_type_of_text_is_no_file() -> None:
    head = b"Content-Disposition: form-data; name=x\r\nContent-Type: text/plain"
    assert read([b"--b\r\n" + head + b"\r\n\r\nfirst\r\n--b--\r\n"]) == []


def test_a_field_behind_an_image_is_no_image() -> None:
    image = b"--b\r\nContent-Disposition: form-data; name=x\r\nContent-Type: image/png\r\n\r\nfirst\r\n"
    field = b"--b\r\nContent-Disposition: form-data; name=note\r\n\r\nno file\r\n"
    assert read([image + field + b"--b--\r\n"]) == [File(None, b"first")]


def test_as_many_files_as_a_form_may_have_and_as_large_ones_are_taken() -> None:
    file = b"--b\r\nContent-Disposition: form-data; filename=a.png\r\n\r\n" + b"x" * 100
    assert read([(file + b"\r\n") * 4 + b"--b--\r\n"]) == [File("a.png", b"x" * 100)] * 4
    with pytest.raises(TooManyImages, match="4 images at most; split it"):
        read([(file + b"\r\n") * 5 + b"--b--\r\n"])
    with pytest.raises(BodyTooLarge, match="100 bytes at most; send a smaller one"):
        read([file + b"y\r\n--b--\r\n"])


def test_fields_beside_the_files_are_no_images_however_many() -> None:
    field = b"--b\r\nContent-Disposition: form-data; name=note\r\n\r\nno file\r\n"
    assert read([field * FIELDS_BESIDE_FILES + b"--b--\r\n"]) == []
    with pytest.raises(MalformedRequest, match=r"may have 64 fields beside its files at most; leave out the others\.$"):
        read([field * (FIELDS_BESIDE_FILES + 1) + b"--b--\r\n"])


def named(filename: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; filename="' + filename + b'"\r\n\r\nfirst\r\n--b--\r\n'


def test_the_head_of_a_part_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []

    def parse(header: bytes) -> tuple[bytes, dict[bytes, bytes]]:
        parsed.append(header)
        return b"form-data", {b"filename": b"a.png"}

    monkeypatch.setattr(multipart, "parse_options_header", parse)
    assert read([named(b"a.png")]) == [File("a.png", b"first")]
    assert parsed == [b'form-data; filename="a.png"']


def test_a_name_may_be_long_but_not_without_end() -> None:
    name = "a" * (HEADER_BYTES - 100)
    assert read([named(name.encode())]) == [File(name, b"first")]
    with pytest.raises(MalformedRequest, match="can't be parsed"):
        read([named(b"a" * HEADER_BYTES)])


def test_a_name_may_have_semicolons_but_not_without_end() -> None:
    name = ";" * (SEMICOLONS - 1)
    assert read([named(name.encode())]) == [File(name, b"first")]
    with pytest.raises(MalformedRequest, match=r"may have 64 semicolons at most; send a plainer name\.$"):
        read([named(b";" * SEMICOLONS)])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(BODY) - 1), st.binary(max_size=20))
def test_damage_gives_files_or_a_service_error_and_nothing_else(place: int, damage: bytes) -> None:
    try:
        read([BODY[:place] + damage + BODY[place + len(damage) :]])
    except ServiceError as exc:
        assert 400 <= exc.status < 500  # noqa: PT017 - either outcome is right, a third is not
