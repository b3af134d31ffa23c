"""Paths and URLs of the command line → inputs: folders, globs, lists of paths, archives and tables, single images.

fsspec opens them, so a URL may lead to any store it knows. Servers never come here: they read uploads, not paths.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from fsspec import AbstractFileSystem
from fsspec.core import has_magic, url_to_fs
from fsspec.implementations.local import LocalFileSystem

from service.errors import InvalidImage, InvalidSource
from service.jobs.inputs import Content, Input, Limits, ReadStream, hidden, member, refused
from service.jobs.sources import HEAD_BYTES, kind_of
from service.jobs.sources.cifar import FILE_NAME

LIST_SUFFIX = ".txt"
LONGEST_LINE = 32 << 10


@dataclass(frozen=True, slots=True)
class Opened:
    """A path's inputs, what identifies its content, and how much of it has been read so far (0 … 1, None: unknown)."""

    inputs: Iterator[Input]
    fingerprint: str
    progress: Callable[[], float | None] = lambda: None
    alone: bool = False  # one image

    def inputs_of(self, path: str | None) -> Iterator[Input]:
        """The inputs, with ids that begin with `path`."""
        for each in self.inputs:
            yield each if path is None else replace(each, id="/".join(filter(None, (path.rstrip("/"), each.id))))


def open_path(path: str, limits: Limits) -> Opened:
    """What is at `path`; raises `InvalidSource`."""
    try:
        files, place = url_to_fs(path)
        if files.isdir(place):
            return Opened(_folder(files, place, limits), "folder")
        if has_magic(path) and not files.exists(place):
            return Opened(_glob(files, place, limits), "glob")
        return _file(files, place, limits)
    except (ImportError, ValueError) as exc:  # a protocol that needs a package, or that nothing knows
        raise InvalidSource(f"{path}: {exc}") from exc
    except OSError as exc:
        raise InvalidSource(f"{path} can't be read: {exc.strerror or exc}.") from exc


def _file(files: AbstractFileSystem, place: str, limits: Limits) -> Opened:
    about = files.info(place)
    size, name = int(about["size"]), posixpath.basename(place)
    changed = next((str(about[key]) for key in ("mtime", "ETag", "etag", "LastModified") if key in about), "")
    fingerprint = f"{size} {changed}"
    with files.open(place, "rb") as stream:
        kind = kind_of(name, stream.read(HEAD_BYTES))
    read = (
        kind.read if kind else partial(_list, files, posixpath.dirname(place)) if name.endswith(LIST_SUFFIX) else None
    )
    if read is None:
        return Opened(iter([Input(name, partial(_read, files, place, limits), anywhere=True)]), fingerprint, alone=True)
    reading = _Reading(files, place, size, limits)
    return Opened(reading.inputs(read), fingerprint, reading.progress)


class _Reading:
    """A file that is open as long as its inputs are being read."""

    def __init__(self, files: AbstractFileSystem, place: str, size: int, limits: Limits) -> None:
        self._files, self._place, self._size, self._limits = files, place, size, limits
        self._position: Callable[[], int] = lambda: 0

    def inputs(self, read: ReadStream) -> Iterator[Input]:
        """The file's inputs."""
        with self._files.open(self._place, "rb") as stream:
            self._position = stream.tell
            try:
                yield from read(stream, self._size, self._limits)
            finally:
                self._position = lambda: self._size

    def progress(self) -> float:
        """How much of the file has been gone through."""
        return self._position() / max(self._size, 1)


def _folder(files: AbstractFileSystem, place: str, limits: Limits) -> Iterator[Input]:
    """Every file below a folder, by name, folder after folder; CIFAR-10's batches in one are read as such."""
    batches = [path for path in _listed(files, place) if FILE_NAME.fullmatch(posixpath.basename(path))]
    if batches:
        for path in batches:
            name = posixpath.basename(path)
            for found in _file(files, path, limits).inputs:
                yield Input(f"{name}/{found.id}", found.read, found.truth)
        return
    for path in _below(files, place):
        name = path.removeprefix(place).lstrip("/")
        yield member(name, partial(_read, files, path, limits), anywhere=True)


def _below(files: AbstractFileSystem, folder: str) -> Iterator[str]:
    for path, is_folder in _listed(files, folder).items():
        if is_folder:
            yield from _below(files, path)
        else:
            yield path


def _listed(files: AbstractFileSystem, folder: str) -> dict[str, bool]:
    """Path → whether it is a folder, by name."""
    if isinstance(files, LocalFileSystem):  # whose own `ls` asks the disk about every single file
        with os.scandir(folder) as entries:
            found = {f"{folder.rstrip('/')}/{entry.name}": entry.is_dir() for entry in entries}
    else:
        found = {entry["name"].rstrip("/"): entry["type"] == "directory" for entry in files.ls(folder, detail=True)}
    return {
        path: is_folder
        for path, is_folder in sorted(found.items())
        if path != folder.rstrip("/") and not hidden(posixpath.basename(path))
    }


def _glob(files: AbstractFileSystem, pattern: str, limits: Limits) -> Iterator[Input]:
    root = posixpath.dirname(pattern[: min(pattern.find(sign) for sign in "*?[" if sign in pattern)])
    for path in sorted(files.glob(pattern)):
        if not files.isdir(path):
            yield member(path.removeprefix(root).lstrip("/"), partial(_read, files, path, limits), anywhere=True)


def _list(files: AbstractFileSystem, folder: str, stream: BinaryIO, _size: int, limits: Limits) -> Iterator[Input]:
    """One path or URL per line; a path is relative to the list's folder."""
    while line := stream.readline(LONGEST_LINE):
        path = line.decode("utf-8", "replace").strip()
        if not path:
            continue
        if len(line) == LONGEST_LINE:
            yield refused(path[:64], "The line is no path; write one path per line.")
        elif "://" in path:
            truth = posixpath.basename(posixpath.dirname(path)) or None
            yield Input(path, partial(_read_url, path, limits), truth, anywhere=True)
        else:
            truth = posixpath.basename(posixpath.dirname(path)) or None
            yield Input(path, partial(_read, files, posixpath.join(folder, path), limits), truth, anywhere=True)


def _read(files: AbstractFileSystem, path: str, limits: Limits) -> Content:
    try:
        with Path(path).open("rb") if isinstance(files, LocalFileSystem) else files.open(path, "rb") as stream:
            content: bytes = stream.read(limits.max_image_bytes + 1)
    except OSError as exc:
        raise InvalidImage("The file can't be read: it is missing, no plain file, or closed to this user.") from exc
    if len(content) > limits.max_image_bytes:
        raise limits.too_large()
    return content


def _read_url(url: str, limits: Limits) -> Content:
    try:
        files, place = url_to_fs(url)
    except (ImportError, ValueError, OSError) as exc:
        raise InvalidImage("Nothing here can open this URL; install fsspec's package for its store.") from exc
    return _read(files, place, limits)
