"""A folder of pictures on a disk → the folders and files in it, and the classes that folders' names are.

What is hidden is left alone, and what a link leads to is there as if it lay here. A name that is no text and a
folder that can't be read raise `DataError`: nothing is learned without a class that is believed to be there.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from training.errors import DataError


def folders_in(path: Path) -> list[Path]:
    """Those directly in it that are not hidden, by name; none where it is no folder."""
    if not path.is_dir():
        return []
    return sorted(each for each in _read(path) if each.is_dir() and not _hidden(each.name))


def files_beside(path: Path) -> list[Path]:
    """Those directly in it that are not hidden, by name."""
    return sorted(each for each in _read(path) if each.is_file() and not _hidden(each.name))


def files_in(folder: Path) -> Iterator[Path]:
    """Those in it that are not hidden, at any depth; a folder that several links lead to counts once."""
    return (file for file in _leaves(folder) if file.is_file())


def lost_links(folder: Path) -> Iterator[Path]:
    """Links in it that lead nowhere, at any depth."""
    return (link for link in _leaves(folder) if link.is_symlink() and not link.exists())


def _leaves(folder: Path) -> Iterator[Path]:
    """What is no folder."""
    here = folder.resolve()
    entered = {here, *here.parents}  # a link to one of these would lead here again
    for place, inner, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        ends = {Path(place, name).resolve(): name for name in inner if not _hidden(name)}
        inner[:] = [name for end, name in ends.items() if end not in entered]
        entered.update(ends)
        yield from (Path(place, name) for name in names if not _hidden(name))


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


def _read(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as exc:
        _unreadable(exc)


def _unreadable(exc: OSError) -> NoReturn:
    raise DataError(f"{exc.filename} can't be read: {exc.strerror}. Make it readable, or move it elsewhere.") from exc


def _hidden(name: str) -> bool:
    return name.startswith(".")
