"""What only zip archives have."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from service.errors import InvalidSource
from tests.service.jobs.packing import (
    as_encrypted_zip,
    as_overlapping_zip,
    as_zip,
    as_zip_of_one_blob,
    as_zip_with_its_end_elsewhere,
    as_zip_with_its_member_elsewhere,
    inputs,
    outcomes,
)

FAR = [1 << 31, 1 << 62, (1 << 64) - 1]  # within and beyond what files can be asked for
PICTURES = [("cat/a.png", b"first"), ("dog/b.png", b"second" * 1000), ("c.png", b"")]


def test_a_link_in_a_zip_has_an_error_in_its_place() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    ((_, error),) = outcomes("zip", stream.getvalue())
    assert "is a link or no plain file" in str(error)


def test_an_encrypted_member_has_an_error_in_its_place() -> None:
    (_, error), (_, good) = outcomes("zip", as_encrypted_zip([("a", b"x"), ("b", b"y")]))
    assert "encrypted" in str(error)
    assert good == b"y"


def test_members_that_overlap_are_counted_as_often_as_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.jobs.inputs.GRACE_BYTES", 1 << 20)
    with pytest.raises(InvalidSource, match="unpacks to far more"):
        outcomes("zip", as_overlapping_zip(1 << 20, 1000))


def test_what_members_share_is_counted_as_often_as_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.jobs.inputs.GRACE_BYTES", 1 << 20)
    assert [content for _, content in outcomes("zip", as_zip_of_one_blob(1 << 20, 2))] == [b"", b""]
    with pytest.raises(InvalidSource, match="unpacks to far more"):
        outcomes("zip", as_zip_of_one_blob(1 << 20, 200))


def test_a_zip_that_lies_about_a_members_size_is_damaged() -> None:
    packed = bytearray(as_zip([("a", bytes(1000))]))
    at = packed.find(b"PK\x01\x02") + 24
    packed[at : at + 4] = struct.pack("<L", 10)
    ((_, error),) = outcomes("zip", bytes(packed))
    assert "damaged" in str(error)


def test_a_zip_behind_other_bytes_is_read() -> None:
    assert outcomes("zip", b"#!/bin/sh\nexit\n" + as_zip(PICTURES)) == PICTURES


def test_a_zip_with_64_bit_numbers_is_read() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, archive.open("a", "w", force_zip64=True) as member:
        member.write(b"x")
    assert outcomes("zip", stream.getvalue()) == [("a", b"x")]


def test_a_zip_of_more_members_than_16_bits_count_is_read(tmp_path: Path) -> None:
    path, count = tmp_path / "many.zip", 70_000
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(count):
            archive.writestr(f"{index}", b"")
    content = path.read_bytes()
    assert sum(1 for _ in inputs("zip", content)) == count


def test_a_name_of_absurd_length_is_cut_and_has_an_error() -> None:
    ((id_, error),) = outcomes("zip", as_zip([("x" * 5000, b"x")]))
    assert len(str(id_)) == 1024
    assert "shorten it" in str(error)


def test_a_zip_with_a_64_bit_end_is_read() -> None:
    end = as_zip(PICTURES[:1]).rfind(b"PK\x05\x06")
    assert outcomes("zip", as_zip_with_its_end_elsewhere(PICTURES[:1], end)) == PICTURES[:1]


@pytest.mark.parametrize("position", FAR)
def test_a_table_of_contents_behind_the_end_is_refused(position: int) -> None:
    with pytest.raises(InvalidSource, match="table of contents is damaged"):
        outcomes("zip", as_zip_with_its_end_elsewhere(PICTURES[:1], position))


@pytest.mark.parametrize("position", FAR)
def test_a_member_behind_the_end_is_damaged(position: int) -> None:
    ((id_, error),) = outcomes("zip", as_zip_with_its_member_elsewhere("a", b"x", position))
    assert id_ == "a"
    assert "member is damaged" in str(error)


def test_a_member_whose_place_is_told_in_64_bits_is_read() -> None:
    assert outcomes("zip", as_zip_with_its_member_elsewhere("a", b"x", 0)) == [("a", b"x")]


def renamed(name: bytes, system: int) -> bytes:
    """A zip of one member that is called so, by a program of that system, with no flag for UTF-8."""
    packed = bytearray(as_zip([("~" * len(name), b"x")]))
    packed[packed.rfind(b"PK\x01\x02") + 5] = system
    return bytes(packed).replace(b"~" * len(name), name)


@pytest.mark.parametrize(
    ("name", "system", "read"),
    [
        ("Käse/日本.png".encode(), 3, "Käse/日本.png"),  # as Info-ZIP's `zip` and macOS write it
        (b"K\x84se/a.png", 0, "Käse/a.png"),
        ("é/a.png".encode(), 0, "├⌐/a.png"),
        (b"K\x84se/a.png", 3, "Käse/a.png"),
    ],
)
def test_a_name_without_a_flag_is_utf_8_where_a_unix_program_can_have_meant_that(
    name: bytes, system: int, read: str
) -> None:
    assert outcomes("zip", renamed(name, system)) == [(read, b"x")]
    assert [each.truth for each in inputs("zip", renamed(name, system))] == [read.split("/")[0]]
