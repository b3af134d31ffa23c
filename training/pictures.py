"""A folder of pictures with a folder for each class → splits that stay what they are when pictures are added.

`PICTURES/cat/1.jpg`, `PICTURES/dog/2.png` …: the names of the folders are the classes. A tenth is held out for
validation and a tenth for the test. Which is decided by each file's content, so that a picture never changes sides, and
copies of it are all on the same. Who has made that choice already has the same folders below `PICTURES/train` and
`PICTURES/test`, and perhaps `PICTURES/validation`. What can't be read raises `DataError`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from training import decoding
from training.decoding import FORMATS, SUFFIXES, Pixels, TooLarge, decode
from training.errors import DataError
from training.folders import class_of, files_beside, files_in, folders_in, lost_links

Part = Literal["train", "validation", "test"]
Flaw = Literal["damaged", "too large"]
Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]  # images (N, size, size, 3), labels (N,)
PARTS: dict[str, Part] = {  # what their folders are called, in upper or lower case
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
TENTHS: dict[Part, int] = {"test": 0, "validation": 1}  # of all contents, for parts that have no folder of their own
SHOWN = 3  # names of bad files in an error


@dataclass(frozen=True)
class Picture:
    """A file, the number of its class, and the part whose folder it lies in: train, where there are no such folders."""

    path: Path
    label: int
    part: Part


@dataclass(frozen=True)
class Layout:
    """What lies in a folder of pictures."""

    path: Path
    labels: tuple[str, ...]
    pictures: tuple[Picture, ...]
    held_out: tuple[Part, ...]  # parts without a folder, which pictures of train belong to if their content says so
    left_out: Mapping[str, int]  # files not looked at: ends of their names, and where they lie if that is why


@dataclass(frozen=True)
class Read:
    """What is in a file; no pixels where it is no picture, or of a part that is not wanted."""

    picture: Picture
    part: Part
    digest: bytes
    pixels: Pixels | None
    flaw: Flaw | None


@dataclass(frozen=True)
class Class:
    """The files in a class's folder, at any depth."""

    pictures: list[Path]
    others: Counter[str]  # ends of names


def found(path: Path) -> bool:
    """Whether pictures in folders lie at `path`."""
    return bool(_inner(path))


def survey(path: Path) -> Layout:
    """What lies at `path`, its classes sorted by name.

    Raises `DataError` for fewer than two classes, for one without a picture that can be read, for names that are no
    text, and for parts that are missing, doubled, or have other classes or neighbours.
    """
    folders = _parts(path)
    class_of(path.resolve())  # a model's metadata will hold its name, too
    parts = {part: _classes(folder) for part, folder in folders.items()}
    names = sorted(name for name, files in parts["train"].items() if files.pictures)
    if not names:
        raise DataError(f"{folders['train']} has no folder with pictures in it; make one for each class.")
    if len(names) < 2:
        raise DataError(f"{path} has pictures of one class only, {', '.join(names)}; make a folder for each of two.")
    for part, classes in parts.items():
        if strangers := sorted({name for name, files in classes.items() if files.pictures} - set(names)):
            raise DataError(f"{folders[part]} has classes that {folders['train']} has not: {', '.join(strangers)}.")
    others = [files.others for part in parts.values() for files in part.values()]
    others += [_beside(folder) for folder in dict.fromkeys([*folders.values(), path])]
    return Layout(
        path,
        tuple(names),
        tuple(
            Picture(file, number, part)
            for part, classes in parts.items()
            for number, name in enumerate(names)
            if name in classes
            for file in classes[name].pictures
        ),
        tuple(part for part in TENTHS if part not in parts),
        dict(sum(others, Counter[str]()).most_common()),
    )


def load(layout: Layout, size: int, wanted: Collection[Part]) -> dict[Part, Arrays]:
    """The wanted parts, in an order that their content decides: as good as random, and always the same.

    Raises `DataError` for files that are no pictures, before anything is learned those of the test too, and for a
    picture that is in two classes or parts.
    """
    pictures = layout.pictures
    with ThreadPoolExecutor() as threads:  # decoding lets go of the GIL
        every = threads.map(lambda picture: _read(picture, layout, size, wanted), pictures)
        read = list(tqdm(every, "reading pictures", len(pictures), leave=False, disable=None))
    _refuse_bad(layout, read)
    read.sort(key=lambda each: each.digest)
    _refuse_twofold(layout, read)
    return {part: _arrays(layout, part, [each for each in read if each.part == part]) for part in wanted}


def _parts(path: Path) -> dict[Part, Path]:
    """The folders of parts, where somebody has divided the pictures; where nobody has, all are there to learn from."""
    inner = _inner(path)
    folders = {PARTS[each.name.lower()]: each for each in inner if each.name.lower() in PARTS}
    others = [each.name for each in inner if each not in folders.values()]
    if not folders or (others and not ("train" in folders and len(folders) > 1)):  # a class may be called like a part
        return {"train": path}
    divided = " and ".join(each.name for each in folders.values())
    if others:
        raise DataError(
            f"{path} is divided into {divided}, and there is no place in it for {', '.join(others)}; move what "
            "is not to be learned or measured elsewhere."
        )
    for part, purpose in (("train", "to learn from"), ("test", "for the test")):
        if part not in folders:
            raise DataError(
                f"{path} has a folder {divided} and none {purpose}; make {path / part}, or do without {divided}."
            )
    return folders


def _inner(path: Path) -> list[Path]:
    """The folders in it that hold pictures, by name."""
    return [each for each in folders_in(path) if any(map(_is_picture, files_in(each)))]


def _classes(folder: Path) -> dict[str, Class]:
    """What is in each class's folder, or in those whose names are one to a reader."""
    classes = dict[str, Class]()
    for each in folders_in(folder):
        found = _class(each)
        if found.pictures or found.others:
            known = classes.get(name := class_of(each), Class([], Counter()))
            classes[name] = Class(known.pictures + found.pictures, known.others + found.others)
    return classes


def _class(folder: Path) -> Class:
    pictures, others = list[Path](), Counter[str]()
    for file in files_in(folder):
        if _is_picture(file):
            pictures.append(file)
        else:
            others[_ending(file)] += 1
    if others and not pictures:  # what none of can be read is no absence of a class
        raise DataError(
            f"{folder} holds no picture in a known format ({', '.join(FORMATS)}), only files called "
            f"*{', *'.join(suffix for suffix, _ in others.most_common())}; convert them, or move that folder elsewhere."
        )
    if not pictures and (lost := list(lost_links(folder))):
        raise DataError(
            f"{folder} holds no picture, only {len(lost):,} links that lead nowhere; mend them, or move that folder "
            "elsewhere."
        )
    return Class(pictures, others)


def _beside(folder: Path) -> Counter[str]:
    """Files in it that are in no class's folder; of a picture it is told why it is not looked at."""
    return Counter(_ending(file) + " beside the folders" * _is_picture(file) for file in files_beside(folder))


def _ending(file: Path) -> str:
    """The end of its name, which can be printed, be it text or not."""
    return (file.suffix.lower() or file.name).encode(errors="backslashreplace").decode()


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _read(picture: Picture, layout: Layout, size: int, wanted: Collection[Part]) -> Read:
    try:
        content = picture.path.read_bytes()
    except OSError as exc:
        raise DataError(f"{picture.path} can't be read: {exc.strerror}.") from exc
    digest = hashlib.sha256(content).digest()
    part = _part_of(digest, layout.held_out) if picture.part == "train" else picture.part
    pixels: Pixels | None = None
    flaw: Flaw | None = None
    if part in wanted or "train" in wanted:  # who learns is told of all that is bad, not at the end
        try:
            pixels = decode(content, size)
        except TooLarge:
            flaw = "too large"
        except ValueError:
            flaw = "damaged"
    return Read(picture, part, digest, pixels if part in wanted else None, flaw)


def _part_of(digest: bytes, held_out: tuple[Part, ...]) -> Part:
    tenth = int.from_bytes(digest[:8]) * 10 >> 64
    return next((part for part in held_out if TENTHS[part] == tenth), "train")


def _refuse_bad(layout: Layout, read: list[Read]) -> None:
    told: dict[Flaw, tuple[str, str]] = {
        "damaged": ("can't be read as pictures", "mend or remove them"),
        "too large": (f"are pictures of more than {decoding.MOST_PIXELS:,} pixels", "make them smaller or remove them"),
    }
    for flaw, (what, remedy) in told.items():
        if bad := [each.picture.path for each in read if each.flaw == flaw]:
            named = ", ".join(str(file.relative_to(layout.path)) for file in bad[:SHOWN])
            more = ", …" if len(bad) > SHOWN else ""
            raise DataError(f"{len(bad):,} of the files in {layout.path} {what}: {named}{more}; {remedy}.")


def _refuse_twofold(layout: Layout, read: list[Read]) -> None:
    """`read` is sorted by digest, so that copies follow each other."""
    copies = [(one, other) for one, other in pairwise(read) if one.digest == other.digest]
    for kind, pairs in (
        ("classes", [(one, other) for one, other in copies if one.picture.label != other.picture.label]),
        ("parts", [(one, other) for one, other in copies if one.part != other.part]),
    ):
        if pairs:
            one, other = sorted(each.picture.path.relative_to(layout.path) for each in pairs[0])
            more = f", and {len(pairs) - 1:,} more are" if len(pairs) > 1 else ""
            raise DataError(f"In {layout.path}, {one} and {other} are one picture in two {kind}{more}; keep one.")


def _arrays(layout: Layout, part: Part, read: list[Read]) -> Arrays:
    numbers = np.array([each.picture.label for each in read], np.int64)
    missing = [name for number, name in enumerate(layout.labels) if number not in numbers] if part == "train" else []
    if missing or not read:
        raise DataError(
            f"There are too few pictures in {layout.path}: none for {part}"
            + (f" of {missing[0]}" if missing else "")
            + "; add some. A dozen of each class is the least, and some hundred are better."
        )
    return np.stack([each.pixels for each in read if each.pixels is not None]), numbers
