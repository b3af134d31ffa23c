"""What only tar archives have."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from service.errors import InvalidSource
from service.jobs.sources import SOURCES, kind_of
from tests.service.jobs.packing import PACKERS, as_tar, outcomes, zstd_compressed


def test_links_and_devices_in_a_tar_have_errors_in_their_places() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"kind{kind.decode()}")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    found = outcomes("tar", stream.getvalue())
    assert len(found) == 4
    assert all("is a link or no plain file" in str(error) for _, error in found)


@pytest.mark.parametrize("size", [1 << 20, 1 << 30])
def test_an_absurd_header_in_a_tar_is_not_read_into_memory(size: int) -> None:
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, size
    packed = gzip.compress(member.tobuf(tarfile.USTAR_FORMAT) + bytes(64 << 20))
    with pytest.raises(InvalidSource, match="absurd"):
        outcomes("tar.gz", packed)


def test_what_an_image_may_have_a_header_behind_it_may_not() -> None:
    image = ("a.png", bytes(1 << 20))
    assert outcomes("tar", as_tar([image])) == [image]
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 1 << 20
    packed = as_tar([image])[: 512 + (1 << 20)] + member.tobuf(tarfile.USTAR_FORMAT) + bytes(2 << 20)
    with pytest.raises(InvalidSource, match="absurd"):
        outcomes("tar", packed)


@pytest.mark.parametrize("name", ["BMW.png", "GIF89a.png", "a.png"])
@pytest.mark.parametrize("oldest", [False, True])
def test_a_tar_is_known_whatever_its_first_member_is_called(name: str, oldest: bool) -> None:
    packed = bytearray(as_tar([(name, b"x")]))
    if oldest:  # without a mark of its own, as the seventh edition of Unix wrote it
        packed[257:265] = bytes(8)
        packed[148:156] = b"%06o\0 " % (sum(packed[:148]) + 8 * 0x20 + sum(packed[156:512]))
    assert kind_of("", bytes(packed[:512])) is SOURCES["tar"]
    assert outcomes("tar", bytes(packed)) == [(name, b"x")]


@pytest.mark.parametrize("head", [b"BM" + bytes(510), b"GIF89a" + bytes(506)])
def test_an_image_is_no_tar(head: bytes) -> None:
    assert kind_of("x.tar", head) is None


def with_global_headers(headers: list[dict[str, str]]) -> bytes:
    """A member behind each."""
    packed = as_tar([("a.png", b"x")])[:1024]
    heads = map(tarfile.TarInfo.create_pax_global_header, headers)
    return b"".join(head + packed for head in heads) + bytes(1024)


def test_headers_for_all_that_follow_are_not_gone_through_again_at_each_member(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `git archive` writes one, with the commit."""
    seen, apply = list[int](), tarfile.TarInfo._apply_pax_info  # type: ignore[attr-defined]

    def watched(self: tarfile.TarInfo, headers: dict[str, str], *rest: str) -> None:
        seen.append(len(headers))
        apply(self, headers, *rest)

    monkeypatch.setattr(tarfile.TarInfo, "_apply_pax_info", watched)
    packed = with_global_headers([{f"comment{i}": "x"} for i in range(50)])
    assert outcomes("tar", packed) == [("a.png", b"x")] * 50
    assert max(seen) == 1


@pytest.mark.parametrize("header", [{"path": "b.png"}, {"size": "5"}])
def test_a_name_or_a_size_for_all_that_follow_is_refused(header: dict[str, str]) -> None:
    with pytest.raises(InvalidSource, match="one name or size"):
        outcomes("tar", with_global_headers([header, {"comment": "x"}]))


def test_what_is_compressed_and_no_tar_is_told_so() -> None:
    with pytest.raises(InvalidSource, match="no tar archive in it"):
        outcomes("tar.gz", gzip.compress(b'{"id": "a", "image": ""}\n' * 100))


def test_a_sparse_member_has_an_error_in_its_place() -> None:
    packed = bytearray(as_tar([("a", b"x")]))
    member = tarfile.TarInfo("sparse")
    member.type = tarfile.GNUTYPE_SPARSE
    found = outcomes("tar", member.tobuf(tarfile.GNU_FORMAT) + bytes(packed))
    assert "no plain file" in str(found[0][1])
    assert found[1] == ("a", b"x")


def test_a_name_that_is_not_text_is_shown_with_marks() -> None:
    packed = as_tar([("a?b", b"x")]).replace(b"a?b", b"a\xffb")
    header = tarfile.TarInfo.frombuf(bytearray(as_tar([("a?b", b"x")])[:512]), "utf-8", "strict")
    packed = packed.replace(b"%06o\0" % header.chksum, b"%06o\0" % (header.chksum + 0xFF - ord("?")))
    assert outcomes("tar", packed) == [("a�b", b"x")]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.zst"])
def test_an_archive_behind_an_archive_is_not_passed_over_in_silence(kind: str) -> None:
    first, second = as_tar([("a", b"x")]), as_tar([("b", b"y")])
    far = first + bytes(1 << 20) + second  # beyond what is read at once
    for packed in (first + second, far, first[:1024] + bytes(512) + second):
        content = packed if kind == "tar" else gzip.compress(packed) if kind == "tar.gz" else zstd_compressed(packed)
        with pytest.raises(InvalidSource, match="Another archive follows"):
            outcomes(kind, content)
    with pytest.raises(InvalidSource, match="Another archive follows"):
        outcomes(kind, PACKERS[kind]([("a", b"x")]) + PACKERS[kind]([("b", b"y")]))


def test_what_else_stands_behind_an_archive_means_nothing() -> None:
    assert outcomes("tar", as_tar([("a", b"x")]) + b"padding of a tape" * 1000) == [("a", b"x")]
