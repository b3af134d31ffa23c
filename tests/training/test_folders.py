"""Folders on a disk → the files in them, none of them twice, and classes that can be written down."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from training.errors import DataError
from training.folders import class_of, composed, files_in, folders_in


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def found(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in files_in(folder))


def test_files_are_found_at_any_depth_and_hidden_ones_are_not(tmp_path: Path) -> None:
    touch(tmp_path / "a", tmp_path / "b/c/d", tmp_path / "b/.e", tmp_path / ".f/g", tmp_path / "b/.h/i/j")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    assert found(tmp_path) == ["a", "b/c/d"]
    assert [folder.name for folder in folders_in(tmp_path)] == ["b"]
    assert folders_in(tmp_path / "a") == []


def test_what_a_link_leads_to_is_found_once(tmp_path: Path) -> None:
    touch(tmp_path / "here/a", tmp_path / "there/b", tmp_path / "there/deep/c")
    (tmp_path / "here/link").symlink_to(tmp_path / "there")
    (tmp_path / "here/other").symlink_to(tmp_path / "there/deep")
    names = [file.name for file in files_in(tmp_path / "here")]
    assert sorted(names) == ["a", "b", "c"]
    (tmp_path / "whole").symlink_to(tmp_path / "here")
    assert sorted(file.name for file in files_in(tmp_path / "whole")) == ["a", "b", "c"]


def test_links_that_lead_in_a_circle_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path / "all/class/a", tmp_path / "all/class/deep/b", tmp_path / "all/other/c")
    (tmp_path / "all/class/deep/up").symlink_to(tmp_path / "all/class")
    (tmp_path / "all/class/everything").symlink_to(tmp_path / "all")
    (tmp_path / "all/class/itself").symlink_to("itself")
    assert found(tmp_path / "all/class") == ["a", "deep/b"]


@pytest.mark.parametrize("place", ["a", "a/b"])
def test_what_can_not_be_read_is_told_and_not_left_out(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    scandir = os.scandir

    def closed(path: Path | str) -> Iterator[os.DirEntry[str]]:
        if Path(path) == tmp_path / place:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match=f"{place} can't be read: Permission denied. Make it readable"):
        list(files_in(tmp_path))


def test_a_folder_of_classes_that_can_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(DataError, match="can't be read: Permission denied"):
        folders_in(tmp_path)


def test_a_class_is_its_name_in_one_form(tmp_path: Path) -> None:
    assert class_of(tmp_path / "e\u0301toile") == class_of(tmp_path / "\u00e9toile") == "\u00e9toile"
    assert composed("cat") == "cat"


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"folder '.*/caf\\udce9' is not UTF-8; rename it"):
        class_of(tmp_path / os.fsdecode(b"caf\xe9"))
