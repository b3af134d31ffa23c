"""Paths and URLs → inputs."""

from __future__ import annotations

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from service.errors import InvalidSource
from service.jobs.inputs import Limits
from service.jobs.sources import SOURCES, kind_of
from service.jobs.sources.cifar import LABELS
from service.jobs.sources.files import open_path
from tests.conftest import encode, generated_records, picture
from tests.service.jobs.packing import PACKERS, write_folder
from tests.service.jobs.sources.test_edge import Far

PNG = encode(picture("red"))
PICTURES = [("cat/a.png", PNG), ("cat/b.png", b"no image"), ("dog/a.png", PNG), ("e.png", PNG)]


def found(path: Path | str, limits: Limits | None = None) -> list[tuple[str | None, object]]:
    opened = open_path(str(path), limits or Limits()).inputs
    return [(each.id, getattr(content := each.content(), "detail", content)) for each in opened]


@pytest.mark.parametrize("kind", PACKERS)
def test_the_bytes_say_what_a_file_is(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(PACKERS[kind](PICTURES))
    assert found(path) == PICTURES


def test_every_source_can_be_packed_here_or_is_cifar() -> None:
    assert set(SOURCES) == set(PACKERS) | {"cifar-10"}


def test_a_folder_gives_its_files_by_name(tmp_path: Path) -> None:
    write_folder(tmp_path, [*reversed(PICTURES), (".hidden", b"x"), (".git/config", b"x")])
    assert found(tmp_path) == PICTURES
    assert [each.truth for each in open_path(str(tmp_path), Limits()).inputs] == ["cat", "cat", "dog", None]


def test_a_glob_gives_what_matches_by_name(tmp_path: Path) -> None:
    write_folder(tmp_path, PICTURES)
    assert [id_ for id_, _ in found(tmp_path / "*" / "a.*")] == ["cat/a.png", "dog/a.png"]
    assert [id_ for id_, _ in found(tmp_path / "?at" / "*.png")] == ["cat/a.png", "cat/b.png"]
    assert [id_ for id_, _ in found(tmp_path / "[cd]og" / "a.png")] == ["dog/a.png"]
    assert [id_ for id_, _ in found(tmp_path / "**" / "*.png")] == [name for name, _ in PICTURES]


def test_a_glob_of_folders_gives_their_files_once(tmp_path: Path) -> None:
    write_folder(tmp_path, PICTURES)
    assert found(tmp_path / "*") == PICTURES
    assert [each.truth for each in open_path(f"{tmp_path}/*", Limits()).inputs] == ["cat", "cat", "dog", None]
    assert found(f"{tmp_path}/**") == PICTURES
    pixels, labels = generated_records(3, 0)
    (tmp_path / "dog" / "test_batch.bin").write_bytes(np.concatenate([labels[:, None], pixels], 1).tobytes())
    assert [id_ for id_, _ in found(tmp_path / "d*")] == [f"dog/test_batch.bin/{i}" for i in range(3)]


def test_a_glob_that_ends_in_a_slash_is_of_folders_alone(tmp_path: Path) -> None:
    write_folder(tmp_path, PICTURES)
    assert found(f"{tmp_path}/*/") == PICTURES[:3]
    with pytest.raises(InvalidSource, match="matches nothing"):
        open_path(f"{tmp_path}/e*/", Limits())
    store = fsspec.filesystem("memory")
    for name, content in PICTURES:
        store.pipe(f"/slash/{name}", content)
    assert found("memory://slash/*/") == PICTURES[:3]


def test_a_glob_of_tables_gives_their_rows(tmp_path: Path) -> None:
    for name in ("1.parquet", "2.parquet"):
        (tmp_path / name).write_bytes(PACKERS["parquet"](PICTURES[:1]))
    assert found(tmp_path / "*.parquet") == [("1.parquet/cat/a.png", PNG), ("2.parquet/cat/a.png", PNG)]
    store = fsspec.filesystem("memory")
    store.pipe("/shards/1.parquet", PACKERS["parquet"](PICTURES[:1]))
    assert found("memory://shards/*.parquet") == [("1.parquet/cat/a.png", PNG)]


def test_a_glob_of_lists_gives_what_they_name(tmp_path: Path) -> None:
    write_folder(tmp_path, [*PICTURES, ("1.txt", b"e.png\ncat/a.png\n"), ("2.txt", b"dog/a.png\n")])
    assert found(tmp_path / "*.txt") == [("1.txt/e.png", PNG), ("1.txt/cat/a.png", PNG), ("2.txt/dog/a.png", PNG)]
    assert found(tmp_path / "?.*")[0] == ("1.txt", b"e.png\ncat/a.png\n")  # among pictures it may be a note


def test_a_glob_passes_over_what_is_hidden_unless_it_asks_for_it(tmp_path: Path) -> None:
    hidden = [("._e.png", b"x"), (".copies/e.png", PNG), ("cat/.copies/a.png", PNG)]
    write_folder(tmp_path, [*PICTURES, *hidden])
    assert found(tmp_path / "*") == PICTURES
    assert found(tmp_path / "**" / "*.png") == PICTURES
    assert found(tmp_path / ".*.png") == hidden[:1]
    assert found(tmp_path / ".copies" / "*") == [("e.png", PNG)]
    with pytest.raises(InvalidSource, match="matches nothing"):
        open_path(f"{tmp_path}/?copies", Limits())


def test_what_is_in_a_hidden_folder_that_is_asked_for_is_not_hidden(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / ".cache" / "in", [*PICTURES, (".e.png", b"x"), ("cat/.e.png", b"x")])
    assert found(folder) == PICTURES
    assert found(folder / "*") == PICTURES


def test_a_glob_passes_over_pipes_and_waits_for_none(tmp_path: Path) -> None:
    write_folder(tmp_path, PICTURES[:1])
    os.mkfifo(tmp_path / "cat" / "pipe")
    (tmp_path / "cat" / "link").symlink_to("pipe")
    assert found(tmp_path / "cat" / "*") == [("a.png", PNG)]


def test_a_dead_link_that_a_glob_matches_has_its_error_in_its_place(tmp_path: Path) -> None:
    write_folder(tmp_path, [("a.png", PNG), ("c.png", PNG)])
    (tmp_path / "b.png").symlink_to("nowhere")
    first, (id_, error), last = found(tmp_path / "*.png")
    assert (first, id_, last) == (("a.png", PNG), "b.png", ("c.png", PNG))
    assert "missing" in str(error)


def test_but_one_that_may_have_held_many_ends_the_run(tmp_path: Path) -> None:
    """Thousands of images would be missing, with one row to say so."""
    write_folder(tmp_path, [("1.tar", PACKERS["tar"](PICTURES))])
    (tmp_path / "2.tar").symlink_to("nowhere")
    with pytest.raises(InvalidSource, match=r"2\.tar can't be read: No such file"):
        found(tmp_path / "*.tar")


@pytest.mark.parametrize("name", ["photo[1].png", "a*.png", "what?.png"])
def test_a_file_that_is_called_like_a_pattern_is_that_file(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path, [(name, PNG), ("photo1.png", b"x"), ("ab.png", b"x"), ("whats.png", b"x")])
    assert found(tmp_path / name) == [(name, PNG)]


def test_a_glob_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSource, match="matches nothing"):
        open_path(f"{tmp_path}/*.png", Limits())


@pytest.mark.parametrize("name", ["a::b", "zip::c", "file:", "local:a", "~", "data:,x"])
def test_a_path_that_is_there_is_no_url_whatever_its_name_looks_like(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, [(f"in/{name}/a.png", PNG), (f"in/{name}.png", PNG), ("in/b.png", b"another")])
    monkeypatch.chdir(tmp_path / "in")
    assert found(name) == found(f"./{name}/") == found(f"{name}/*.png") == [("a.png", PNG)]
    assert found(f"{name}.png") == found(tmp_path / "in" / f"{name}.png") == [(f"{name}.png", PNG)]
    assert found(f"{name}*.png") == [(f"{name}.png", PNG)]
    assert found(f"../in/{name}") == found(f"{tmp_path}/in/{name}/") == [("a.png", PNG)]


def test_a_whole_path_needs_no_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, [("a.png", PNG), ("gone/b.png", PNG)])
    monkeypatch.chdir(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    assert found(tmp_path / "a.png") == [("a.png", PNG)]


def test_a_list_names_files_beside_it(tmp_path: Path) -> None:
    write_folder(tmp_path, PICTURES)
    (tmp_path / "list.txt").write_text(f"dog/a.png\n\n{tmp_path}/e.png\nnowhere.png\nnowhere://x\n")
    first, second, (_, missing), (_, unknown) = found(tmp_path / "list.txt")
    assert (first, second) == (("dog/a.png", PNG), (f"{tmp_path}/e.png", PNG))
    assert "missing" in str(missing)
    assert "can open this URL" in str(unknown)


def test_a_single_image_is_one_input(tmp_path: Path) -> None:
    write_folder(tmp_path, [*PICTURES, ("download", PNG)])
    assert found(tmp_path / "e.png") == [("e.png", PNG)]
    assert found(tmp_path / "download") == [("download", PNG)]
    assert found(tmp_path / "cat" / "b.png") == [("b.png", b"no image")]


def test_a_damaged_image_is_one_by_its_name_whatever_its_case(tmp_path: Path) -> None:
    write_folder(tmp_path, [("a.JPG", b"no image"), ("b.Tif", b"no image")])
    for name in ("a.JPG", "b.Tif"):
        assert found(tmp_path / name) == [(name, b"no image")]


def test_a_file_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, [("labels.csv", b"id,label"), ("rows.ndjson", b"")])
    for name in ("labels.csv", "rows.ndjson"):
        with pytest.raises(InvalidSource, match=f"{name} is no image, and of no kind that holds images"):
            open_path(str(tmp_path / name), Limits())


def test_a_zip_behind_other_bytes_is_read(tmp_path: Path) -> None:
    (tmp_path / "self-extracting").write_bytes(b"#!/bin/sh\nexit\n" + PACKERS["zip"](PICTURES))
    assert found(tmp_path / "self-extracting") == PICTURES
    assert found(tmp_path / "self*") == [(f"self-extracting/{name}", content) for name, content in PICTURES]


def test_a_tar_of_nothing_has_no_inputs_and_a_picture_of_nothing_but_zeros_its_error(tmp_path: Path) -> None:
    for name in ("empty.tar", "zeros.png"):
        (tmp_path / name).write_bytes(bytes(10240))
    assert found(tmp_path / "empty.tar") == []
    assert found(tmp_path / "zeros.png") == [("zeros.png", bytes(10240))]


@pytest.mark.parametrize("kind", ["ndjson", "list.txt"])
def test_a_mark_at_the_beginning_costs_no_row(kind: str, tmp_path: Path) -> None:
    write_folder(tmp_path, PICTURES)
    content = PACKERS["ndjson"](PICTURES) if kind == "ndjson" else b"".join(b"%s\n" % p[0].encode() for p in PICTURES)
    (tmp_path / kind).write_bytes(b"\xef\xbb\xbf" + content)
    assert found(tmp_path / kind) == PICTURES


def test_the_id_of_one_image_among_several_paths_is_its_path(tmp_path: Path) -> None:
    write_folder(tmp_path, PICTURES)
    paths = [str(tmp_path / folder / "a.png") for folder in ("cat", "dog")]
    assert [each.id for path in paths for each in open_path(path, Limits()).inputs_of(path)] == paths


def test_a_slash_behind_a_folder_stands_once_in_the_ids(tmp_path: Path) -> None:
    write_folder(tmp_path, PICTURES[:1])
    for path in (f"{tmp_path}", f"{tmp_path}/"):
        assert [each.id for each in open_path(path, Limits()).inputs_of(path)] == [f"{tmp_path}/cat/a.png"]


def test_a_file_that_was_changed_has_another_fingerprint(tmp_path: Path) -> None:
    def fingerprint(content: bytes, changed: int) -> str:
        (tmp_path / "rows.ndjson").write_bytes(content)
        os.utime(tmp_path / "rows.ndjson", (changed, changed))
        return open_path(str(tmp_path / "rows.ndjson"), Limits()).fingerprint

    rows = PACKERS["ndjson"](PICTURES)
    assert fingerprint(rows, 1) == fingerprint(rows, 1)
    assert len({fingerprint(rows, 1), fingerprint(rows, 2), fingerprint(rows + rows, 1)}) == 3


@pytest.mark.parametrize("key", ["ETag", "etag", "LastModified"])
def test_so_has_one_of_a_store(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("memory").pipe("/a.png", PNG)
    fingerprints = set()
    for changed in ("one", "another"):
        about = {"name": "/a.png", "size": len(PNG), "type": "file", key: changed}
        monkeypatch.setattr(MemoryFileSystem, "info", lambda *_, about=about, **__: about)
        fingerprints.add(open_path("memory://a.png", Limits()).fingerprint)
    assert len(fingerprints) == 2


def test_names_that_are_no_text_have_marks_in_their_ids(tmp_path: Path) -> None:
    path = os.fsdecode(bytes(tmp_path) + b"/\xff")
    write_folder(Path(path), [("\udcfe.png", PNG)])
    assert [each.id for each in open_path(path, Limits()).inputs_of(path)] == [f"{tmp_path}/�/�.png"]
    single = f"{path}/\udcfe.png"
    assert found(single) == [("�.png", PNG)]
    assert [each.id for each in open_path(single, Limits()).inputs_of(single)] == [f"{tmp_path}/�/�.png"]


def test_so_have_those_of_what_lies_in_such_a_folder(tmp_path: Path) -> None:
    pixels, labels = generated_records(1, 0)
    batch = np.concatenate([labels[:, None], pixels], 1).tobytes()
    write_folder(tmp_path, [("\udcfe/a.zip", PACKERS["zip"](PICTURES[:1])), ("\udcff/test_batch.bin", batch)])
    assert [id_ for id_, _ in found(tmp_path / "*" / "*.zip")] == ["�/a.zip/cat/a.png"]
    assert [id_ for id_, _ in found(tmp_path / "*")] == ["�/a.zip", "�/test_batch.bin/0"]


def test_names_that_would_lead_out_of_an_archive_are_as_good_as_others(tmp_path: Path) -> None:
    names = ["d/..\\x.png", "d/\\lead.png", "n01:/a.png"]
    write_folder(tmp_path, [(name, PNG) for name in names])
    assert found(tmp_path) == [(name, PNG) for name in names]
    assert found(tmp_path / "*") == [(name, PNG) for name in names]
    assert [each.truth for each in open_path(str(tmp_path), Limits()).inputs] == ["d", "d", "n01:"]
    assert found(tmp_path / "d" / "..\\x.png") == [("..\\x.png", PNG)]


def test_a_list_names_files_whose_names_are_no_text(tmp_path: Path) -> None:
    write_folder(tmp_path, [("\udcfe/\udcff.png", PNG)])
    (tmp_path / "list.txt").write_bytes(b"\xfe/\xff.png\n\xfe\0\n\xfe://a\n")
    assert found(tmp_path / "list.txt")[0] == ("�/�.png", PNG)
    assert [each.id for each in open_path(str(tmp_path / "list.txt"), Limits()).inputs] == ["�/�.png", "�\0", "�://a"]
    assert next(open_path(str(tmp_path / "list.txt"), Limits()).inputs).truth == "�"


def test_links_back_and_pipes_are_passed_over_and_a_dead_link_has_its_error(tmp_path: Path) -> None:
    write_folder(tmp_path, PICTURES[:1])
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    (tmp_path / "cat" / "z.png").symlink_to("nowhere")
    first, (id_, error) = found(tmp_path)
    assert first == PICTURES[0]
    assert id_ == "cat/z.png"
    assert "missing" in str(error)


def test_a_pipe_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "list.txt").write_text("pipe\n")
    ((_, error),) = found(tmp_path / "list.txt")
    assert "no plain file" in str(error)
    with pytest.raises(InvalidSource, match="no plain file"):
        open_path(str(tmp_path / "pipe"), Limits())


def test_a_folder_that_may_not_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, PICTURES)
    scandir = os.scandir

    def closed(folder: str) -> object:
        if folder.endswith("dog"):
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(InvalidSource, match="dog can't be read: Permission denied; make it readable, or"):
        found(tmp_path)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_threads_that_read_an_archive_as_a_store_get_each_its_own_member(kind: str, tmp_path: Path) -> None:
    members = [(f"{number:04}.png", PNG + str(number).encode()) for number in range(1000)]
    (tmp_path / "archive").write_bytes(PACKERS[kind](members))
    inputs = list(open_path(f"{kind}://::{tmp_path / 'archive'}", Limits()).inputs)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda each: (each.id, each.content()), inputs)) == members


def test_a_folder_that_is_called_like_cifar_10s_batches_is_one(tmp_path: Path) -> None:
    write_folder(tmp_path, [("test_batch/a.png", PNG)])
    assert found(tmp_path) == [("test_batch/a.png", PNG)]


def test_the_outputs_own_files_are_no_inputs(tmp_path: Path) -> None:
    output, names = tmp_path / "out.csv", ["out.csv", "out.csv.partial", "out.csv.partial.json", "out.csv.new"]
    write_folder(tmp_path, [("a.png", PNG), *((name, b"x") for name in names), ("in/out.csv", b"x")])
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (tmp_path, tmp_path / "link"):
        ids = [each.id for each in open_path(str(path), Limits(), output).inputs]
        assert ids == ["a.png", "in/out.csv"]
    ids = [each.id for each in open_path(f"{tmp_path}/*", Limits(), output).inputs]
    assert ids == ["a.png", "in/out.csv", "link/a.png", "link/in/out.csv"]


def test_an_output_that_is_an_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.ndjson").write_bytes(PACKERS["ndjson"](PICTURES))
    (tmp_path / "link").symlink_to("rows.ndjson")
    for name in ("rows.ndjson", "link"):
        with pytest.raises(InvalidSource, match="is what --output names"):
            open_path(str(tmp_path / name), Limits(), tmp_path / "rows.ndjson")


def test_what_a_store_raises_is_one_sentence_or_one_rows_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exceptions of their own, as those of HTTP and of the clouds have."""
    store = fsspec.filesystem("memory")
    store.pipe("/in/a.png", PNG)
    store.pipe("/rows.ndjson", PACKERS["ndjson"](PICTURES))
    rows = open_path("memory://rows.ndjson", Limits()).inputs

    def refuse(*_: object, **__: object) -> None:
        raise LookupError("the store says no")

    monkeypatch.setattr(MemoryFileSystem, "_open", refuse)
    ((_, error),) = found("memory://in")
    assert "its store broke off" in str(error)
    with pytest.raises(InvalidSource, match="the store says no"):
        next(rows)
    monkeypatch.setattr(MemoryFileSystem, "info", refuse)
    with pytest.raises(InvalidSource, match="the store says no"):
        open_path("memory://rows.ndjson", Limits())


def test_a_picture_that_comes_piece_by_piece_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.txt").write_text("memory://a.png\n")
    monkeypatch.setattr(MemoryFileSystem, "_open", lambda *_, **__: Far(PNG))
    assert found(tmp_path / "list.txt") == [("memory://a.png", PNG)]


@pytest.mark.parametrize("kind", ["ndjson", "list.txt"])
def test_lines_come_from_any_store(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = PACKERS["ndjson"](PICTURES) if kind == "ndjson" else b"".join(b"%s\n" % p[0].encode() for p in PICTURES)
    store = fsspec.filesystem("memory")
    store.pipe(f"/far/{kind}", content)
    monkeypatch.setattr(MemoryFileSystem, "_open", lambda *_, **__: Far(content))
    assert [id_ for id_, _ in found(f"memory://far/{kind}")] == [name for name, _ in PICTURES]


def test_a_file_of_unknown_size_is_to_be_downloaded_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *_, **__: {"name": "/a", "size": None, "type": "file"})
    with pytest.raises(
        InvalidSource, match=r"/a\.zip can\'t be read: its server does not say how large it is; download"
    ):
        open_path("memory://a.zip", Limits())


def test_a_file_that_is_too_large_has_an_error_in_its_place(tmp_path: Path) -> None:
    ((_, error),) = found(write_folder(tmp_path, [("a.png", PNG)]), Limits(max_image_bytes=10))
    assert "10 bytes at most" in str(error)
    assert found(tmp_path, Limits(max_image_bytes=len(PNG))) == [("a.png", PNG)]


def test_so_has_an_archives_member(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(PACKERS["zip"](PICTURES[:1]))
    ((_, error),) = found(tmp_path / "a.zip", Limits(max_image_bytes=10))
    assert "10 bytes at most" in str(error)


def test_a_folder_of_cifar_10s_batches_gives_their_images(tmp_path: Path) -> None:
    for name in ("data_batch_1.bin", "test_batch.bin"):
        pixels, labels = generated_records(3, 0)
        (tmp_path / name).write_bytes(np.concatenate([labels[:, None], pixels], 1).tobytes())
    (tmp_path / "batches.meta.txt").write_text("\n".join(LABELS))
    assert [id_ for id_, _ in found(tmp_path)] == [
        f"{name}.bin/{i}" for name in ("data_batch_1", "test_batch") for i in range(3)
    ]


def test_urls_are_opened_by_fsspec(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/pictures/a.png", PNG)
    store.pipe("/pictures/b/c.png", PNG)
    store.pipe("/archive.zip", PACKERS["zip"](PICTURES))
    assert found("memory://pictures") == [("a.png", PNG), ("b/c.png", PNG)]
    assert found("memory://archive.zip") == PICTURES
    (tmp_path / "list.txt").write_text("memory://pictures/a.png\n")
    assert found(tmp_path / "list.txt") == [("memory://pictures/a.png", PNG)]


@pytest.mark.parametrize("path", ["/nowhere/at/all", "nowhere://bucket"])
def test_what_is_not_there_is_refused(path: str) -> None:
    with pytest.raises(InvalidSource, match="nowhere"):
        open_path(path, Limits())


def test_progress_goes_from_nothing_to_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.ndjson"
    path.write_bytes(PACKERS["ndjson"](PICTURES * 1000))
    opened = open_path(str(path), Limits())
    assert opened.progress() == 0
    next(opened.inputs)
    assert 0 < (opened.progress() or 0) < 1
    assert sum(1 for _ in opened.inputs) == 3999
    assert opened.progress() == 1


def test_an_images_bytes_win_over_its_name() -> None:
    assert kind_of("data_batch_1", PNG) is None
