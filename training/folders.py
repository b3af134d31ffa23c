"""A folder of pictures on a disk → the folders and files in it, and the classes that folders' names are.

What is hidden is left alone, and what a link leads to is there as if it lay here. A name that is no text raises
`DataError`.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from training.errors import DataError


def folders_in(path: Path) -> list[Path]:
    """Those directly in it that are not hidden, by name; none where it is no folder."""
    return sorted(each for each in path.iterdir() if each.is_dir() and not _hidden(each.name)) if path.is_dir() else []


def files_in(folder: Path) -> Iterator[Path]:
    """Those in it that are not hidden, at any depth; a folder that several links lead to counts once."""
    here = folder.resolve()
    entered = {here, *here.parents}  # a link to one of these would lead here again
    for place, inner, names in os.walk(folder, followlinks=True):
        ends = {Path(place, name).resolve(): name for name in inner if not _hidden(name)}
        inner[:] = [name for end, name in ends.items() if end not in entered]
        entered.update(ends)
        yield from (file for name in names if not _hidden(name) and (file := Path(place, name)).is_file())


def class_of(folder: Path) -> str:
    """The class that its name is; raises `DataError` when a model's metadata could not hold it."""
    try:
        folder.name.encode()
    except UnicodeEncodeError as exc:
        raise DataError(f"The name of the folder {str(folder)!r} is not UTF-8; rename it.") from exc
    return composed(folder.name)


def composed(name: str) -> str:
    """The same text in the one form that is compared: some systems write é as e and an accent."""
    return unicodedata.normalize("NFC", name)


def _hidden(name: str) -> bool:
    return name.startswith(".")
