"""Official files → verified images and labels; anything else → one clear sentence."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import REAL_DATA, generated_records
from training import cifar10
from training.data import load_test_split, load_training_data
from training.errors import DataError


def archive(folder: Path, target: Path) -> Path:
    with tarfile.open(target, "w:gz") as out:
        out.add(folder, arcname=folder.name)
    return target


def test_folder_and_parent_and_archive_hold_the_same(generated_data: Path, tmp_path: Path) -> None:
    packed = archive(generated_data, tmp_path / cifar10.BINARY.archive)
    expected = load_training_data(generated_data)
    for place in (generated_data.parent, packed):
        found = load_training_data(place)
        assert torch.equal(found.train.images, expected.train.images)
        assert torch.equal(found.validation.labels, expected.validation.labels)


def test_an_archive_in_a_folder_is_found(generated_data: Path, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    archive(generated_data, shelf / cifar10.BINARY.archive)
    assert torch.equal(load_test_split(shelf).labels, load_test_split(generated_data).labels)


def test_python_and_binary_version_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = generated_records(40, seed=0)
    contents = [
        (cifar10.PYTHON, pickle.dumps({b"data": pixels, b"labels": labels.tolist()})),
        (cifar10.BINARY, np.concatenate([labels[:, None], pixels], 1).tobytes()),
    ]
    splits = []
    for version, content in contents:
        small = replace(version, test_files={"batch": hashlib.md5(content, usedforsecurity=False).hexdigest()})
        monkeypatch.setattr(cifar10, "VERSIONS", (small,))
        folder = tmp_path / version.folder
        folder.mkdir()
        (folder / "batch").write_bytes(content)
        splits.append(load_test_split(folder))
    assert torch.equal(splits[0].images, splits[1].images)
    assert torch.equal(splits[0].labels, splits[1].labels)
    assert splits[0].images.shape == (40, 32, 32, 3)
    assert np.array_equal(splits[0].images[0, :, :, 1].numpy().ravel(), pixels[0, 1024:2048])  # the green plane


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real CIFAR-10 is not here")
def test_the_real_data_has_its_official_size() -> None:
    real = load_training_data(REAL_DATA)
    assert (len(real.train), len(real.validation), len(load_test_split(REAL_DATA))) == (45_000, 5_000, 10_000)
    assert real.validation.labels.bincount().tolist() == [500] * 10
    assert abs(real.train.images.numpy().mean() - 120.7) < 0.1


def test_a_damaged_file_is_named(generated_data: Path) -> None:
    path = generated_data / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=r"data_batch_3\.bin .* is damaged"):
        load_training_data(generated_data)


def test_a_damaged_pickle_is_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / cifar10.PYTHON.folder
    folder.mkdir()
    (folder / "test_batch").write_bytes(b"cposix\nsystem\n(S'false'\ntR.")
    with pytest.raises(DataError, match=r"test_batch .* is damaged"):
        load_test_split(folder)


def test_a_missing_file_is_named(generated_data: Path) -> None:
    (generated_data / "data_batch_2.bin").unlink()
    with pytest.raises(DataError, match=r"lacks data_batch_2\.bin"):
        load_training_data(generated_data)


@pytest.mark.parametrize("keep", [10, 5_000])
def test_a_cut_off_archive_is_damaged(generated_data: Path, tmp_path: Path, keep: int) -> None:
    packed = archive(generated_data, tmp_path / cifar10.BINARY.archive)
    packed.write_bytes(packed.read_bytes()[:keep])
    with pytest.raises(DataError, match="damaged or incomplete"):
        load_training_data(packed)


def test_an_archive_without_the_files_lacks_them(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / cifar10.BINARY.archive, "w:gz") as out:
        out.addfile(tarfile.TarInfo("readme.html"), io.BytesIO())
    with pytest.raises(DataError, match="lacks data_batch_1"):
        load_training_data(tmp_path / cifar10.BINARY.archive)


@pytest.mark.parametrize("name", ["nowhere", "other.zip"])
def test_other_places_are_told_what_is_expected(tmp_path: Path, name: str) -> None:
    if name.endswith(".zip"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"cifar-10-(python\.tar\.gz|batches-py)"):
        load_training_data(tmp_path / name)


def test_an_archive_of_pictures_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "pics.zip").touch()
    with pytest.raises(
        DataError, match=r"pics.zip is a file, .* or at a folder of pictures \(unpack an archive of them"
    ):
        load_training_data(tmp_path / "pics.zip")


def test_its_images_have_one_size(generated_data: Path) -> None:
    for load in (load_training_data, load_test_split):
        with pytest.raises(DataError, match=r"CIFAR-10's images have 32 × 32 pixels, not 64 × 64; .* --size 32"):
            load(generated_data, 64)
