"""Official CIFAR-10 files → verified bytes → pixels and labels.

Both official versions are read, as a folder or as the tar.gz: the python one (pickles, opened only after their
checksum is right) and the binary one (label byte + 3,072 pixel bytes). They hold the same images in the same order.
Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
What is missing or damaged raises `DataError`.
"""

from __future__ import annotations

import hashlib
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.errors import DataError

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NAME, SIZE = "CIFAR-10", 32

Records = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]  # (N, 3072) planar pixels, (N,) labels


@dataclass(frozen=True)
class OfficialVersion:
    """One of the two forms in which the data set is published, with its official MD5 sums."""

    folder: str
    archive: str
    archive_md5: str
    train_files: Mapping[str, str]
    test_files: Mapping[str, str]
    parse: Callable[[bytes], Records]


def _parse_pickle(content: bytes) -> Records:
    batch = pickle.loads(content, encoding="bytes")
    return np.asarray(batch[b"data"], np.uint8), np.asarray(batch[b"labels"], np.uint8)


def _parse_binary(content: bytes) -> Records:
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3072)
    return records[:, 1:], records[:, 0]


PYTHON = OfficialVersion(
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    archive_md5="c58f30108f718f92721af3b95e74349a",
    train_files={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test_files={"test_batch": "40351d587109b95175f43aff81a1287e"},
    parse=_parse_pickle,
)
BINARY = OfficialVersion(
    folder="cifar-10-batches-bin",
    archive="cifar-10-binary.tar.gz",
    archive_md5="c32a1d4ab5d03f1284b67883e8d87530",
    train_files={
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    },
    test_files={"test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d"},
    parse=_parse_binary,
)
VERSIONS = (PYTHON, BINARY)
OFFICIAL_SITE = "https://www.cs.toronto.edu/~kriz/"
Choose = Callable[[OfficialVersion], Mapping[str, str]]  # the files of one split, with their sums


def train_files(version: OfficialVersion) -> Mapping[str, str]:
    """Those of the 50,000 training images."""
    return version.train_files


def test_files(version: OfficialVersion) -> Mapping[str, str]:
    """Those of the 10,000 test images."""
    return version.test_files


def all_files(version: OfficialVersion) -> Mapping[str, str]:
    """Those of both."""
    return {**version.train_files, **version.test_files}


def load(path: Path, choose: Choose) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images uint8 (N, 32, 32, 3) and labels int64 (N,) of a split at `path`; raises `DataError`."""
    found = locate(path, choose)
    if found is None:
        raise DataError(f"There is no CIFAR-10 at {path}.")
    version, location = found
    contents = _read(location, choose(version))
    records = [version.parse(content) for content in contents]
    pixels = np.concatenate([pixels for pixels, _ in records])
    labels = np.concatenate([labels for _, labels in records])
    images = pixels.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)  # planes → (N, H, W, C)
    return np.ascontiguousarray(images), labels.astype(np.int64)


def locate(path: Path, choose: Choose) -> tuple[OfficialVersion, Path] | None:
    """Which version lies at `path`, and the folder or archive its files are in; raises `DataError` for other files."""
    if path.is_file():
        for version in VERSIONS:
            if path.name == version.archive:
                return version, path
        raise DataError(
            f"{path} is a file, and not {' or '.join(version.archive for version in VERSIONS)}; point --data at one of "
            "these, or at a folder of pictures (unpack an archive of them first)."
        )
    for version in VERSIONS:
        for location in (path, path / version.folder):
            if any((location / name).is_file() for name in choose(version)):
                return version, location
        if (path / version.archive).is_file():
            return version, path / version.archive
    return None


def _read(location: Path, files: Mapping[str, str]) -> list[bytes]:
    """The files' contents in the given order, each checked against its MD5 sum."""
    contents = _read_archive(location, files) if location.is_file() else _read_folder(location, files)
    for name, md5 in files.items():
        if name not in contents:
            raise DataError(f"{location} lacks {name}; copy or download the data set again.")
        if hashlib.md5(contents[name], usedforsecurity=False).hexdigest() != md5:
            raise DataError(
                f"{name} in {location} is damaged (its MD5 sum is not the official one); copy or download it again."
            )
    return [contents[name] for name in files]


def _read_folder(folder: Path, files: Mapping[str, str]) -> dict[str, bytes]:
    try:
        return {name: (folder / name).read_bytes() for name in files if (folder / name).is_file()}
    except OSError as exc:
        raise DataError(f"The data set in {folder} can't be read: {exc.strerror}.") from exc


def _read_archive(archive: Path, files: Mapping[str, str]) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|gz") as members:  # one pass, nothing unpacked to disk
            for member in members:
                name = member.name.rpartition("/")[2]
                if name in files and (stream := members.extractfile(member)) is not None:
                    contents[name] = stream.read()
                if len(contents) == len(files):
                    break
    except (OSError, EOFError, tarfile.TarError, zlib.error) as exc:
        raise DataError(f"{archive} is damaged or incomplete; delete it and download it again.") from exc
    return contents
