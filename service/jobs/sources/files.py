"""Paths and URLs of the command line → inputs: folders, globs, lists of paths, archives and tables, single images.

fsspec opens them, so a URL may lead to any store it knows. What can't be listed or read on is `InvalidSource`, and one
image that can't be read has its error in its place. Servers never come here: they read uploads, not paths.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from fsspec import AbstractFileSystem
from fsspec.core import has_magic, url_to_fs
from fsspec.implementations.local import LocalFileSystem

from service.decoding import DECODERS
from service.errors import InvalidImage, InvalidSource
from service.jobs.inputs import Content, Input, Limits, ReadStream, hidden, is_below, stored, text
from service.jobs.sources import HEAD_BYTES, SOURCES, is_image, kind_of, local
from service.jobs.sources.cifar import FILE_NAME
from service.jobs.sources.edge import Stream, as_invalid_source, guarded, opened
from service.jobs.sources.lists import LIST_SUFFIX, list_inputs
from service.jobs.sources.zips import is_zip, zip_inputs

IMAGE_SUFFIXES = (*(f".{name}" for name in DECODERS), ".jpg", ".tif")


@dataclass(frozen=True, slots=True)
class Opened:
    """A path's inputs, what identifies its content, and how much of it has been read so far (0 … 1, None: unknown)."""

    inputs: Iterator[Input]
    fingerprint: str
    progress: Callable[[], float | None] = lambda: None
    alone: bool = False  # one image

    def inputs_of(self, path: str | None) -> Iterator[Input]:
        """The inputs, with ids that begin with `path`; a single image's is just that."""
        for each in self.inputs:
            yield each if path is None else replace(each, id=text(path if self.alone else _joined(path, each.id)))


def _joined(path: str, id_: str | None) -> str:
    return "/".join(filter(None, (path.rstrip("/"), id_)))


def open_path(path: str, limits: Limits, output: Path | None = None) -> Opened:
    """What is at `path`, without the files that `output` is made of; raises `InvalidSource`."""
    if not path:  # as of a shell's variable that is not set; fsspec takes it for the working directory
        raise InvalidSource("A path is empty; name a file or a folder, the working directory as `.`.")
    with as_invalid_source(path):
        here = local.place_of(path)
        files, place = (LocalFileSystem(), here) if here else url_to_fs(path)
        store = _Store(files, limits, local.Own(output if isinstance(files, LocalFileSystem) else None))
        if files.isdir(place):
            return Opened(guarded(path, store.folder(place)), "folder")
        if has_magic(path) and not files.exists(place):
            pattern = f"{place}/" if path.endswith("/") else place  # as in a shell, folders alone
            return Opened(guarded(path, store.glob(pattern)), "glob")
        return store.file(place)


@dataclass(frozen=True, slots=True)
class _Store:
    """Where files are, and what holds for all that are read from there."""

    files: AbstractFileSystem
    limits: Limits
    own: local.Own

    @property
    def is_local(self) -> bool:
        """Whether they are this machine's."""
        return isinstance(self.files, LocalFileSystem)

    def file(self, place: str) -> Opened:
        """An archive, a table, a list, or a single image."""
        about = self.files.info(place)
        if self.own.is_output(place):
            raise InvalidSource(f"{text(place)} is what --output names; choose another output.")
        if about["type"] == "other":
            raise InvalidSource(f"{text(place)} can't be read: it is no plain file.")
        if about["size"] is None:
            raise InvalidSource(
                f"{text(place)} can't be read: its server does not say how large it is; download it first."
            )
        size = int(about["size"])
        changed = next((str(about[key]) for key in ("mtime", "ETag", "etag", "LastModified") if key in about), "")
        fingerprint, read = f"{size} {changed}", self._reader(place, size)
        if read is None:
            name = text(posixpath.basename(place))
            return Opened(iter([replace(self._image(place, name), truth=None)]), fingerprint, alone=True)
        reading = _Reading(self, place, size)
        return Opened(guarded(place, reading.inputs(read)), fingerprint, reading.progress)

    def _reader(self, place: str, size: int) -> ReadStream | None:
        """How the file's inputs are read; None for an image, a damaged one perhaps."""
        name = posixpath.basename(place)
        with self.files.open(place, "rb") as stream:
            head = stream.read(HEAD_BYTES)
            if kind := kind_of(name, head):
                return kind.read
            if name.endswith(LIST_SUFFIX):
                return partial(list_inputs, partial(self._named, posixpath.dirname(place)))
            if is_image(head) or name.lower().endswith(IMAGE_SUFFIXES):
                return None
            if is_zip(stream, size):  # behind other bytes
                return zip_inputs
        kinds = ", ".join(SOURCES)
        raise InvalidSource(
            f"{text(place)} is no image, and of no kind that holds images: {kinds}, or paths in a file *{LIST_SUFFIX}."
        )

    def folder(self, place: str, name: str = "") -> Iterator[Input]:
        """Every file below a folder, by name, folder after folder; CIFAR-10's batches in one are read as such.

        Ids begin with `name`.
        """
        batches = [
            path
            for path, is_folder in self._listed(place, frozenset()).items()
            if not is_folder and FILE_NAME.fullmatch(posixpath.basename(path))
        ]
        for path in batches:
            for found in self.file(path).inputs:
                yield replace(found, id=_joined(_joined(text(name), posixpath.basename(path)), found.id))
        if not batches:
            for path in self._below(place, frozenset()):
                yield self._image(path, _joined(name, path.removeprefix(place).lstrip("/")))

    def _below(self, folder: str, above: frozenset[local.Inode]) -> Iterator[str]:
        if self.is_local:
            above |= {local.inode(folder)}
        for path, is_folder in self._listed(folder, above).items():
            if is_folder:
                yield from self._below(path, above)
            else:
                yield path

    def _listed(self, folder: str, above: frozenset[local.Inode]) -> dict[str, bool]:
        """Path → whether it is a folder, by name."""
        if self.is_local:  # where fsspec's own `ls` asks the disk about every single file
            found = local.listed(folder, above)
        else:
            entries = self.files.ls(folder, detail=True)
            found = {entry["name"].rstrip("/"): entry["type"] == "directory" for entry in entries}
        return {
            path: is_folder
            for path, is_folder in sorted(found.items())
            if path != folder.rstrip("/") and not hidden(posixpath.basename(path)) and path not in self.own
        }

    def glob(self, pattern: str) -> Iterator[Input]:
        """The inputs of all files that match, by name; raises `InvalidSource` at once where none does.

        As in a shell `*` matches nothing that is hidden, and as in a folder pipes are passed over.
        """
        root = posixpath.dirname(re.split(r"[*?[]", pattern)[0])
        asks_for_hidden = hidden(pattern.removeprefix(root))
        found = [
            path
            for path in sorted(self.files.glob(pattern))
            if path not in self.own
            and (asks_for_hidden or not hidden(path.removeprefix(root)))
            and not (self.is_local and local.is_neither(path))
        ]
        if not found:
            raise InvalidSource(
                f"{text(pattern)} matches nothing; check the pattern, and quote it so that the shell leaves it alone."
            )
        return self._matched(found, root, lists=pattern.endswith(LIST_SUFFIX))

    def _matched(self, found: list[str], root: str, *, lists: bool) -> Iterator[Input]:
        """Once what is below a folder that was found too."""
        folders: set[str] = set()
        for path in found:
            name = path.removeprefix(root).lstrip("/")
            if folders and is_below(path, folders):
                continue
            if self.files.isdir(path):
                folders.add(path.rstrip("/"))
                yield from self.folder(path, name)
            else:
                yield from self._nested(path, name, lists=lists)

    def _nested(self, place: str, name: str, *, lists: bool) -> Iterator[Input]:
        if name.lower().endswith(IMAGE_SUFFIXES) or not self._holds_many(place, lists=lists):
            yield self._image(place, name)
            return
        for found in self.file(place).inputs:
            yield replace(found, id=_joined(text(name), found.id))

    def _holds_many(self, place: str, *, lists: bool) -> bool:
        """Whether `_reader` has one for it; lists count where they are asked for: others may be notes."""
        name = posixpath.basename(place)
        with self.files.open(place, "rb") as stream:
            head = stream.read(HEAD_BYTES)
            if kind_of(name, head) or (lists and name.endswith(LIST_SUFFIX)):
                return True
            return not is_image(head) and is_zip(stream, self.files.size(place) or 0)

    def _named(self, folder: str, path: str) -> Input:
        """What a list names: a URL, or a path that is relative to the list's folder."""
        truth = text(posixpath.basename(posixpath.dirname(path))) or None
        read = (
            partial(_read_url, path, self.limits)
            if "://" in path
            else partial(_read, self.files, posixpath.join(folder, path), self.limits)
        )
        return Input(text(path), read, truth, anywhere=True)

    def _image(self, place: str, name: str) -> Input:
        return stored(name, partial(_read, self.files, place, self.limits))


class _Reading:
    """A file that is open as long as its inputs are being read."""

    def __init__(self, store: _Store, place: str, size: int) -> None:
        self._store, self._place, self._size = store, place, size
        self._position: Callable[[], int] = lambda: 0

    def inputs(self, read: ReadStream) -> Iterator[Input]:
        """The file's inputs."""
        with self._store.files.open(self._place, "rb") as stream:
            file = cast(BinaryIO, Stream(stream, self._place))
            self._position = file.tell
            try:
                yield from read(file, self._size, self._store.limits)
            finally:
                self._position = lambda: self._size

    def progress(self) -> float:
        """How much of the file has been gone through."""
        return self._position() / max(self._size, 1)


def _read(files: AbstractFileSystem, path: str, limits: Limits) -> Content:
    try:
        with (
            local.open_plain(path)
            if isinstance(files, LocalFileSystem)
            else opened(partial(files.open, path, "rb"), at_once=files.async_impl)
        ) as stream:
            content = stream.read(limits.max_image_bytes + 1)
    except MemoryError:
        raise
    except Exception as exc:  # each store has its own
        raise InvalidImage(
            "The file can't be read: it is missing, no plain file, closed to this user, or its store broke off."
        ) from exc
    if len(content) > limits.max_image_bytes:
        raise limits.too_large()
    return content


def _read_url(url: str, limits: Limits) -> Content:
    try:
        files, place = url_to_fs(url)
    except Exception as exc:
        raise InvalidImage("Nothing here can open this URL; install fsspec's package for its store.") from exc
    return _read(files, place, limits)
