"""What `--data` names → training, validation and test splits: CIFAR-10, or a folder of pictures.

What is missing or damaged raises `DataError`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training import cifar10, pictures
from training.download import download
from training.errors import DataError

VALIDATION_SHARE = 0.1
VALIDATION_SEED = 2009
SHOWN = 12  # classes whose images are counted one by one
COPIES_ALLOWED = 0.01  # share of the validation images that may be learned from: a few blank ones are no leak
FEW_COPIES, COPIES_OF_FEW = 3, 0.1  # so many may be in any case, or such a share of a few dozen images
CACHE = Path("~/.cache/convoy/cifar-10")


@dataclass(frozen=True)
class Split:
    """Images as the model takes them: `images` uint8 (N, H, W, 3) RGB, `labels` int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def renumbered(self, classes: Sequence[str], wanted: Sequence[str]) -> Split:
        """The same where the classes have the order `wanted` instead of that of `classes`."""
        return Split(self.images, torch.tensor([wanted.index(name) for name in classes])[self.labels])

    def mirrored_too(self) -> Split:
        """These images, and then their mirror images."""
        return Split(torch.cat([self.images, self.images.flip(2)]), self.labels.repeat(2))


@dataclass(frozen=True)
class TrainingData:
    """What training may see. The test split is not among it: only `evaluate` loads that."""

    train: Split
    validation: Split
    labels: tuple[str, ...]
    name: str = cifar10.NAME
    left_out: Mapping[str, int] = field(default_factory=dict)  # files not looked at, see `pictures.Layout`
    option: tuple[str, ...] = ()  # what asks for it on the command line, where that is needed

    def __str__(self) -> str:
        counts = torch.bincount(self.train.labels, minlength=len(self.labels)).tolist()
        if len(counts) <= SHOWN:
            each = ", ".join(f"{label} {count:,}" for label, count in zip(self.labels, counts, strict=True))
        else:
            each = f"{len(counts)} classes of {min(counts):,} to {max(counts):,}"
        others = ", ".join(f"{count:,} *{suffix}" for suffix, count in self.left_out.items())
        return (
            f"{self.name}: {len(self.train):,} images to learn from ({each}), {len(self.validation):,} to validate on"
            + (f"; files not looked at: {others}" if others else "")
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the images to learn from and their labels, in their order."""
        digest = hashlib.sha256(self.train.images.contiguous().numpy().data)
        digest.update(self.train.labels.contiguous().numpy().data)
        return digest.hexdigest()

    @cached_property
    def hashes(self) -> Tensor:
        """What the images to learn from are known by, int64 (N,)."""
        return _hashes(self.train.images)

    def check_held_out(self, learned: Tensor, learner: str, remedy: str) -> None:
        """Raise `DataError` when more than a few validation images have one of the hashes `learned`.

        A copy that was saved anew is another file, and may be of another part; its pixels are the same.
        """
        known = int(torch.isin(_hashes(self.validation.images), learned).sum())
        images = len(self.validation)
        if known > max(COPIES_ALLOWED * images, min(FEW_COPIES, COPIES_OF_FEW * images)):
            raise DataError(
                f"{known:,} of the {images:,} validation images of {self.name} are, saved anew, among "
                f"those that {learner}; {remedy}."
            )

    def batches(self, batch_size: int) -> tuple[int, int]:
        """How many whole batches there are to learn from, at least one, and how many images each of them has."""
        return max(1, len(self.train) // batch_size), min(batch_size, len(self.train))

    def whole(self) -> TrainingData:
        """The same with nothing held back, as published numbers are trained: all to learn from, none to validate on."""
        pairs = ((self.train.images, self.validation.images), (self.train.labels, self.validation.labels))
        images, labels = (torch.cat(pair) for pair in pairs)
        return replace(self, train=Split(images, labels), validation=Split(images[:0], labels[:0]))


def find_data(given: Path | None, size: int = cifar10.SIZE, labels: Sequence[str] = cifar10.LABELS) -> Path:
    """The data set's folder or archive: `given`, else `CONVOY_DATA`, else the cache, downloaded if absent.

    Raises `DataError` before it downloads what has other classes than `labels`, or images of another size.
    """
    if given is None and (variable := os.environ.get("CONVOY_DATA")):
        given = Path(variable)
    place = CACHE if given is None else given
    try:
        found = place.expanduser()
    except RuntimeError as exc:
        raise DataError(f"There is no home folder to find {place} in; give --data a path without ~.") from exc
    if given is not None:
        return found
    if sorted(labels) != sorted(cifar10.LABELS):
        raise DataError(
            f"Without --data the images are {cifar10.NAME}'s, and their classes are not those asked for; point --data "
            "at images of these."
        )
    _check_size(size)
    target = found / cifar10.BINARY.archive
    if not target.exists():
        download(cifar10.OFFICIAL_SITE + cifar10.BINARY.archive, target, md5=cifar10.BINARY.archive_md5)
    return target


def load_training_data(path: Path, size: int = cifar10.SIZE) -> TrainingData:
    """What there is to learn from, less a tenth for validation, as images of `size` × `size` pixels.

    Of CIFAR-10 it is the 50,000 training images, less a fixed, seeded, class-balanced tenth; of a folder of pictures
    see `training.pictures`.
    """
    if _is_cifar10(path, cifar10.train_files):
        whole = _cifar10(path, cifar10.train_files, size)
        chosen = _validation_mask(whole.labels)
        train = Split(whole.images[~chosen], whole.labels[~chosen])
        return TrainingData(train, Split(whole.images[chosen], whole.labels[chosen]), cifar10.LABELS)
    layout = pictures.survey(path)
    read = pictures.load(layout, size, {"train", "validation"})
    train, validation = _split(*read["train"]), _split(*read["validation"])
    name = f"{path.resolve().name}, a folder of pictures"
    return TrainingData(train, validation, layout.labels, name, layout.left_out, option_of(path))


def load_test_split(path: Path, size: int = cifar10.SIZE) -> Split:
    """The test images. Only `training.evaluate` may call this; a test holds it to that."""
    if _is_cifar10(path, cifar10.test_files):
        return _cifar10(path, cifar10.test_files, size)
    return _split(*pictures.load(pictures.survey(path), size, {"test"})["test"])


def labels_of(path: Path) -> tuple[str, ...]:
    """The classes, in the order of their numbers."""
    return cifar10.LABELS if _is_cifar10(path, cifar10.all_files) else pictures.survey(path).labels


def option_of(path: Path) -> tuple[str, ...]:
    """What a recorded command has for the data set at `path`: nothing for CIFAR-10, the folder's name for pictures."""
    return () if _is_cifar10(path, cifar10.all_files) else ("--data", path.resolve().name)


def _is_cifar10(path: Path, choose: cifar10.Choose) -> bool:
    """Whether that is what lies at `path`, and not pictures in folders; raises `DataError` for anything else."""
    if cifar10.locate(path, choose):
        return True
    if not pictures.found(path):
        raise DataError(
            f"There is no CIFAR-10 at {path}, and no folder of pictures with a folder for each class; point --data or "
            f"CONVOY_DATA at one, at {cifar10.PYTHON.folder}, {cifar10.BINARY.folder} or an official tar.gz, or leave "
            "both out to download CIFAR-10."
        )
    return False


def _cifar10(path: Path, choose: cifar10.Choose, size: int) -> Split:
    _check_size(size)
    return _split(*cifar10.load(path, choose))


def _check_size(size: int) -> None:
    if size != cifar10.SIZE:
        raise DataError(
            f"CIFAR-10's images have {cifar10.SIZE} × {cifar10.SIZE} pixels, not {size} × {size}; choose a recipe for "
            "them, --size 32, or give a folder of pictures with --data."
        )


def _split(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> Split:
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def _hashes(images: Tensor) -> Tensor:
    """8 bytes for the pixels of each image: uint8 (N, H, W, 3) → int64 (N,)."""
    digests = (hashlib.blake2b(image, digest_size=8).digest() for image in images.contiguous().numpy())
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)


def _validation_mask(labels: Tensor) -> Tensor:
    """True for the validation images: the same share of every class, always the same images."""
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        members = torch.nonzero(labels == label).flatten()
        order = torch.randperm(len(members), generator=generator)
        mask[members[order[: round(len(members) * VALIDATION_SHARE)]]] = True
    return mask
