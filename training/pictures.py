"""A folder of pictures with a folder for each class → splits that stay what they are when pictures are added.

`PICTURES/cat/1.jpg`, `PICTURES/dog/2.png` …: the names of the folders are the classes. A tenth is held out for
validation and a tenth for the test. Which is decided by each file's content, so that a picture never changes sides, and
copies of it are all on the same. Who has made that choice already has the same folders below `PICTURES/train` and
`PICTURES/test`, and perhaps `PICTURES/validation`. What can't be read raises `DataError`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from training.decoding import FORMATS, SUFFIXES, Pixels, decode
from training.errors import DataError

Part = Literal["train", "validation", "test"]
Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]  # images (N, size, size, 3), labels (N,)
PARTS: tuple[Part, ...] = ("train", "validation", "test")
TENTHS: dict[Part, int] = {"test": 0, "validation": 1}  # of all contents, for parts that have no folder of their own
SHOWN = 3  # names of bad files in an error


@dataclass(frozen=True)
class Picture:
    """A file, its class, and the parts that it may belong to: the last one, unless its content decides otherwise."""

    path: Path
    label: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Read:
    """What is in a file of a part that is wanted; no pixels where it is no picture."""

    picture: Picture
    part: Part
    digest: bytes
    pixels: Pixels | None


def found(path: Path) -> bool:
    """Whether pictures in folders lie at `path`."""
    return bool(_classes(path))


def labels(path: Path) -> tuple[str, ...]:
    """The classes, sorted by name; raises `DataError` for fewer than two, one without pictures, or others in a part."""
    folders = _parts(path)
    for folder in folders.values() or [path]:
        _refuse_unreadable_classes(folder)
    names = _classes(folders.get("train", path))
    if len(names) < 2:
        raise DataError(f"{path} has pictures of one class only, {', '.join(names)}; make a folder for each of two.")
    for folder in folders.values():
        if strangers := sorted(set(_classes(folder)) - set(names)):
            raise DataError(f"{folder} has classes that {folders['train']} has not: {', '.join(strangers)}.")
    if folders and "test" not in folders:
        raise DataError(f"{path} has a folder train and none for the test; make {path / 'test'}, or do without train.")
    return tuple(names)


def load(path: Path, size: int, wanted: Collection[Part]) -> dict[Part, Arrays]:
    """The wanted parts, in an order that their content decides: as good as random, and always the same."""
    pictures = list(_pictures(path))
    read: list[Read] = []
    with ThreadPoolExecutor() as threads:  # decoding lets go of the GIL
        every = threads.map(lambda picture: _read(picture, size, wanted), pictures)
        for each in tqdm(every, "reading pictures", len(pictures), leave=False, disable=None):
            if each is not None:
                read.append(each)
    if bad := [each.picture.path for each in read if each.pixels is None]:
        named = ", ".join(str(file.relative_to(path)) for file in bad[:SHOWN]) + (", …" if len(bad) > SHOWN else "")
        raise DataError(f"{len(bad):,} files in {path} are no pictures, or damaged: {named}; mend or remove them.")
    read.sort(key=lambda each: each.digest)
    return {part: _arrays(path, part, [each for each in read if each.part == part]) for part in wanted}


def left_out(path: Path) -> dict[str, int]:
    """How many files of the classes are not looked at, by the ends of their names, the most frequent first."""
    folders = list(_parts(path).values()) or [path]
    return _others(folder / name for folder in folders for name in _classes(folder))


def _classes(folder: Path) -> list[str]:
    """The folders in it that hold pictures, at any depth."""
    return sorted(each.name for each in _inner(folder) if next(_files(each), None) is not None)


def _refuse_unreadable_classes(folder: Path) -> None:
    """A folder of files none of which is a picture by its name is a class whose pictures can't be read."""
    for each in _inner(folder):
        if next(_files(each), None) is None and (others := _others([each])):
            known = ", ".join(FORMATS)
            raise DataError(
                f"{each} holds no picture in a known format ({known}), only files called *{', *'.join(others)}; "
                "convert them, or move that folder elsewhere."
            )


def _inner(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if each.is_dir() and not _hidden(each)] if folder.is_dir() else []


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and not _hidden(file))


def _others(folders: Iterable[Path]) -> dict[str, int]:
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file() and not _hidden(file))
    suffixes = (file.suffix.lower() or file.name for file in files)
    return dict(Counter(suffix for suffix in suffixes if suffix not in SUFFIXES).most_common())


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _parts(path: Path) -> dict[Part, Path]:
    """The folders of parts, where somebody has divided the pictures: where there are no others."""
    names = set(_classes(path))
    return {part: path / part for part in PARTS if part in names} if "train" in names <= set(PARTS) else {}


def _pictures(path: Path) -> Iterator[Picture]:
    folders = _parts(path)
    places: list[tuple[tuple[Part, ...], Path]] = [((part,), folder) for part, folder in folders.items()]
    if not folders:
        places = [(("test", "validation", "train"), path)]
    elif "validation" not in folders:
        places[0] = ("validation", "train"), folders["train"]
    numbers = {name: number for number, name in enumerate(labels(path))}
    for parts, folder in places:
        for name in _classes(folder):
            for file in _files(folder / name):
                yield Picture(file, numbers[name], parts)


def _read(picture: Picture, size: int, wanted: Collection[Part]) -> Read | None:
    """None for a picture of another part."""
    try:
        content = picture.path.read_bytes()
    except OSError as exc:
        raise DataError(f"{picture.path} can't be read: {exc.strerror}.") from exc
    digest = hashlib.sha256(content).digest()
    if (part := _part_of(digest, picture.parts)) not in wanted:
        return None
    try:
        pixels: Pixels | None = decode(content, size)
    except ValueError:
        pixels = None
    return Read(picture, part, digest, pixels)


def _part_of(digest: bytes, parts: tuple[Part, ...]) -> Part:
    tenth = int.from_bytes(digest[:8]) * 10 >> 64
    return next((part for part in parts if TENTHS.get(part) == tenth), parts[-1])


def _arrays(path: Path, part: Part, read: list[Read]) -> Arrays:
    names = labels(path)
    numbers = np.array([each.picture.label for each in read], np.int64)
    missing = [name for number, name in enumerate(names) if number not in numbers] if part == "train" else []
    if missing or not read:
        raise DataError(
            f"There are too few pictures in {path}: none for {part}" + (f" of {missing[0]}" if missing else "") + "; "
            "add some. A dozen of each class is the least, and some hundred are better."
        )
    return np.stack([each.pixels for each in read if each.pixels is not None]), numbers
