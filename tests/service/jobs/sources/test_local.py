"""What is a file here, and what is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.jobs.sources import local
from service.jobs.sources.local import Own


def test_files_and_folders_are_listed_and_what_is_neither_is_not(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "to folder").symlink_to("folder")
    (tmp_path / "to file").symlink_to("file")
    (tmp_path / "to itself").symlink_to("to itself")
    (tmp_path / "to pipe").symlink_to("pipe")
    os.mkfifo(tmp_path / "pipe")
    found = local.listed(str(tmp_path))
    assert {path.rpartition("/")[2]: is_folder for path, is_folder in found.items()} == {
        "folder": True,
        "file": False,
        "to folder": True,
        "to file": False,
        "to itself": False,
    }


def test_a_link_to_a_folder_above_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "up").symlink_to(tmp_path)
    assert list(local.listed(str(tmp_path))) == [f"{tmp_path}/up"]
    assert not local.listed(str(tmp_path), frozenset({local.inode(str(tmp_path))}))


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "nothing"])
def test_only_plain_files_are_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(OSError, match=r"plain file|No such file"):
        local.open_plain("/dev/zero" if kind == "device" else str(path))


def test_a_plain_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with local.open_plain(str(tmp_path / "x")) as stream:
        assert stream.read() == b"x"


def test_without_an_output_nothing_is_its_own(tmp_path: Path) -> None:
    assert str(tmp_path / "x") not in Own(None)
    assert not Own(None).is_output(str(tmp_path / "x"))


def test_names_in_other_folders_are_not_the_outputs(tmp_path: Path) -> None:
    own = Own(tmp_path / "out.csv")
    assert str(tmp_path / "out.csv.partial") in own
    assert str(tmp_path / "in" / "out.csv") not in own
