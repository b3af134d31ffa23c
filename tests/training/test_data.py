"""What is learned from, what is held back, and who may open the rest."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.test_pictures import fill
from training import cifar10, data
from training.data import Split, find_data, labels_of, load_training_data, option_of
from training.errors import DataError


def test_the_validation_split_is_fixed_balanced_and_apart(generated_data: Path) -> None:
    once, again = load_training_data(generated_data), load_training_data(generated_data)
    assert torch.equal(once.validation.images, again.validation.images)
    assert (len(once.train), len(once.validation)) == (1800, 200)
    assert once.validation.labels.bincount().tolist() == [20] * 10
    train = {image.numpy().tobytes() for image in once.train.images}
    assert not any(image.numpy().tobytes() in train for image in once.validation.images)


def test_the_whole_holds_nothing_back(generated_data: Path) -> None:
    data = load_training_data(generated_data)
    whole = data.whole()
    assert (len(whole.train), len(whole.validation)) == (2000, 0)
    assert torch.equal(whole.train.images[1800:], data.validation.images)
    assert torch.equal(whole.train.labels[1800:], data.validation.labels)
    assert whole.validation.images.shape[1:] == data.validation.images.shape[1:]


def test_the_place_is_the_argument_then_the_variable_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(data, "download", lambda url, _target, **_: fetched.append(url))
    monkeypatch.setattr(data, "CACHE", tmp_path / "cache")
    monkeypatch.delenv("CONVOY_DATA", raising=False)
    assert find_data(None) == tmp_path / "cache" / cifar10.BINARY.archive
    assert fetched == [cifar10.OFFICIAL_SITE + cifar10.BINARY.archive]
    monkeypatch.setenv("CONVOY_DATA", "/variable")
    assert find_data(None) == Path("/variable")
    assert find_data(Path("/argument")) == Path("/argument")


def test_without_a_home_folder_there_is_no_cache_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert data.CACHE.parts[0] == "~"  # or whoever has no home could import nothing
    monkeypatch.setattr(data, "CACHE", Path("~nobody of that name/cache"))
    monkeypatch.delenv("CONVOY_DATA", raising=False)
    with pytest.raises(DataError, match=r"no home folder to find ~nobody of that name/cache in; give --data a path"):
        find_data(None)


def test_only_evaluate_opens_the_test_split() -> None:
    source = Path(data.__file__).parent
    users = {path.name for path in source.rglob("*.py") if "load_test_split" in path.read_text()}
    assert users == {"data.py", "evaluate.py"}
    doors = {path.name for path in source.rglob("*.py") if re.search(r"test_files|pictures\.load", path.read_text())}
    assert doors == {"cifar10.py", "data.py"}


def test_a_recorded_command_names_the_data_by_the_folder_where_it_is_not_cifar10(
    generated_data: Path, tmp_path: Path
) -> None:
    assert load_training_data(generated_data).option == option_of(generated_data) == ()
    pets = fill(tmp_path / "my pets", 25)
    assert load_training_data(pets, 8).option == option_of(pets) == ("--data", "my pets")


def test_the_classes_are_those_of_the_data(generated_data: Path, tmp_path: Path) -> None:
    assert labels_of(generated_data) == cifar10.LABELS
    for file in generated_data.glob("data_batch_*"):
        file.unlink()
    assert labels_of(generated_data) == cifar10.LABELS  # the test images alone say as much
    with pytest.raises(DataError, match=r"There is no CIFAR-10 at .*nowhere, and no folder of pictures"):
        labels_of(tmp_path / "nowhere")
    with pytest.raises(DataError, match="of one class only"):
        labels_of(fill(tmp_path / "one", 2, names=("red",)))


def test_images_are_known_again_by_their_pixels_alone(generated_data: Path) -> None:
    data = load_training_data(generated_data)
    assert data.hashes.dtype == torch.int64
    order = torch.randperm(len(data.train))
    again = replace(data, train=Split(data.train.images[order], data.train.labels[order]))
    assert torch.equal(again.hashes, data.hashes[order])
    assert len(set(data.hashes.tolist())) == len(data.train)


@pytest.mark.parametrize(("copies", "refused"), [(0, False), (3, False), (4, True), (200, True)])
def test_more_than_a_few_validation_images_that_were_learned_from_are_told(
    copies: int, refused: bool, generated_data: Path
) -> None:
    data = load_training_data(generated_data)
    assert len(data.validation) == 200
    images = torch.cat([data.train.images[:copies], data.validation.images[copies:]])
    mixed = replace(data, validation=Split(images, data.validation.labels))
    told = f"{copies} of the 200 validation images of CIFAR-10 are, saved anew, among those that x has seen; go."
    with pytest.raises(DataError, match=told) if refused else nullcontext():
        mixed.check_held_out(data.hashes, "x has seen", "go")
