"""Paths and URLs → inputs."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pytest

from service.errors import InvalidSource
from service.jobs.inputs import Limits
from service.jobs.sources import SOURCES, kind_of
from service.jobs.sources.cifar import LABELS
from service.jobs.sources.files import open_path
from tests.conftest import encode, generated_records, picture
from tests.service.jobs.packing import PACKERS, write_folder

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
    assert [id_ for id_, _ in found(tmp_path / "**" / "*.png")] == [name for name, _ in PICTURES]


def test_a_list_names_files_beside_it(tmp_path: Path) -> None:
    write_folder(tmp_path, PICTURES)
    (tmp_path / "list.txt").write_text(f"dog/a.png\n\n{tmp_path}/e.png\nnowhere.png\nnowhere://x\n")
    first, second, (_, missing), (_, unknown) = found(tmp_path / "list.txt")
    assert (first, second) == (("dog/a.png", PNG), (f"{tmp_path}/e.png", PNG))
    assert "missing" in str(missing)
    assert "can open this URL" in str(unknown)


def test_a_single_image_is_one_input(tmp_path: Path) -> None:
    write_folder(tmp_path, PICTURES)
    assert found(tmp_path / "e.png") == [("e.png", PNG)]
    assert found(tmp_path / "cat" / "b.png") == [("b.png", b"no image")]


def test_a_file_that_is_too_large_has_an_error_in_its_place(tmp_path: Path) -> None:
    ((_, error),) = found(write_folder(tmp_path, [("a.png", PNG)]), Limits(max_image_bytes=10))
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
