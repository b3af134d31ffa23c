"""Downloads survive broken connections and never leave a wrong file under the right name."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from training.download import download
from training.errors import DataError

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Site(ThreadingHTTPServer):
    """Serves CONTENT; cuts each of the first `cuts` answers off after 100,000 bytes."""

    def __init__(self, *, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.cuts, self.ranges, self.asked = 0, ranges, list[str | None]()
        self.tells_length = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.tar.gz"


class Page(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        if self.server.tells_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cuts:
            self.server.cuts -= 1
            body = body[:100_000]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with Site(ranges=request.param) as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        yield site
        site.shutdown()
        thread.join()


def test_a_file_arrives(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "file.tar.gz"
    download(site.url, target, md5=MD5)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["file.tar.gz"]


def test_a_file_of_unknown_length_arrives(site: Site, tmp_path: Path) -> None:
    site.tells_length = False
    download(site.url, tmp_path / "file.tar.gz", md5=MD5)
    assert (tmp_path / "file.tar.gz").read_bytes() == CONTENT


def test_a_broken_connection_is_resumed(site: Site, tmp_path: Path) -> None:
    site.cuts = 2
    download(site.url, tmp_path / "file.tar.gz", md5=MD5)
    assert (tmp_path / "file.tar.gz").read_bytes() == CONTENT
    assert site.asked == [None, "bytes=100000-", f"bytes={200_000 if site.ranges else 100_000}-"]


def test_a_later_attempt_goes_on_where_the_first_gave_up(site: Site, tmp_path: Path) -> None:
    site.cuts = 5
    with pytest.raises(DataError, match=r"kept breaking off.*run the same command again"):
        download(site.url, tmp_path / "file.tar.gz", md5=MD5)
    assert not (tmp_path / "file.tar.gz").exists()
    assert (tmp_path / "file.tar.gz.part").stat().st_size == (500_000 if site.ranges else 100_000)
    download(site.url, tmp_path / "file.tar.gz", md5=MD5)
    assert (tmp_path / "file.tar.gz").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "answer", [b"no answer at all\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n"]
)
def test_what_is_no_whole_answer_is_one_sentence(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(Page, "do_GET", lambda page: page.wfile.write(answer))
    with pytest.raises(DataError, match="could not be downloaded"):
        download(site.url, tmp_path / "file.tar.gz", md5=MD5)


def test_a_complete_part_is_only_checked(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.tar.gz.part").write_bytes(CONTENT)
    download(site.url, tmp_path / "file.tar.gz", md5=MD5)
    assert (tmp_path / "file.tar.gz").read_bytes() == CONTENT


def test_a_wrong_file_is_removed(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="arrived damaged"):
        download(site.url, tmp_path / "file.tar.gz", md5="0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_no_network_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="could not be downloaded"):
        download("http://127.0.0.1:9/file.tar.gz", tmp_path / "file.tar.gz", md5=MD5)
