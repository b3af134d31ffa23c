"""This machine's own files, where not all that has a name is a file to read: links, pipes, the output in the making."""

from __future__ import annotations

import errno
import os
import posixpath
import re
import stat
from pathlib import Path
from typing import BinaryIO

from service.jobs.ledger import beside

Inode = tuple[int, int]  # device, number: what a folder is, whatever it is called


def listed(folder: str, above: frozenset[Inode] = frozenset()) -> dict[str, bool]:
    """Path → whether it is a folder. A link that leads nowhere counts as a file, one that can't be read.

    What is neither is left out, and so are links to a folder that holds this one: those `above`. Raises `OSError`.
    """
    with os.scandir(folder) as entries:
        found = {f"{folder.rstrip('/')}/{entry.name}": _is_folder(entry, above) for entry in entries}
    return {path: is_folder for path, is_folder in found.items() if is_folder is not None}


def _is_folder(entry: os.DirEntry[str], above: frozenset[Inode]) -> bool | None:
    if not entry.is_symlink():
        return entry.is_dir(follow_symlinks=False) or (False if entry.is_file(follow_symlinks=False) else None)
    try:
        about = entry.stat()
    except OSError:
        return False
    if stat.S_ISDIR(about.st_mode):
        return None if (about.st_dev, about.st_ino) in above else True
    return False if stat.S_ISREG(about.st_mode) else None


def inode(folder: str) -> Inode:
    """What the folder is; raises `OSError`."""
    about = Path(folder).stat()
    return about.st_dev, about.st_ino


def open_plain(path: str) -> BinaryIO:
    """A plain file; raises `OSError` for anything else, of which some would have to be waited for."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "it is no plain file")
        return os.fdopen(file, "rb")
    except BaseException:
        os.close(file)
        raise


def place_of(path: str) -> str | None:
    """Where the file, folder or glob is; None where it is no path of this machine.

    Only a look can tell: fsspec would take `a::b` for a chain of stores, and `file:` for the working directory.
    """
    start = re.split(r"[*?[]", path)[0]
    folder = posixpath.dirname(start) or ("." if start != path else "")
    if "://" in path or not (_exists(path) or (folder and _exists(folder))):
        return None
    return Path(path).absolute().as_posix()


def is_neither(path: str) -> bool:
    """Whether what is there is no file and no folder: a pipe, for instance, which would have to be waited for."""
    there = Path(path)
    return not (there.is_file() or there.is_dir()) and there.exists()


class Own:
    """The output's names, finished and in the making: its run does not read them."""

    def __init__(self, output: Path | None) -> None:
        self._output = output
        self._names = {path.name for path in (output, *beside(output))} if output else set()

    def __contains__(self, path: str) -> bool:
        """Whether the file at `path` is called so, where the output is."""
        if self._output is None or posixpath.basename(path) not in self._names:
            return False
        return _same(Path(path).parent, self._output.parent)

    def is_output(self, path: str) -> bool:
        """The same, also under another name."""
        return path in self or (self._output is not None and _same(Path(path), self._output))


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # too long for one of this machine, or in a closed folder
        return False


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:  # one of them is not there
        return False
