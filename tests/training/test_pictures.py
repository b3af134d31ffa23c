"""Folders of pictures → splits, or one clear sentence."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import encode
from tests.training.test_decoding import photo
from training import decoding, pictures
from training.data import labels_of, load_test_split, load_training_data
from training.errors import DataError

COLOURS = {"blue": 2, "green": 1, "red": 0}
SIZE = 16


def speckled(colour: str, number: int) -> Image.Image:
    """Mostly of that colour, and unlike that of any other number."""
    channel = COLOURS.get(colour, 0)
    image = np.random.default_rng([number, *colour.encode()]).integers(0, 60, (20, 24, 3), np.uint8)
    image[..., channel] += 180
    return Image.fromarray(image)


def fill(folder: Path, count: int, first: int = 0, names: tuple[str, ...] = tuple(COLOURS)) -> Path:
    """`count` small pictures of each colour, no two alike, in all kinds of places."""
    for name in names:
        for number in range(first, first + count):
            place = folder / name / ("more/deep" if number % 3 else "")
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.{'PNG' if number % 2 else 'png'}").write_bytes(encode(speckled(name, number)))
    return folder


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("shelf") / "colours", 60)


@pytest.fixture
def folder(shelf: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shelf, tmp_path / "colours"))


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_folders_are_classes_and_every_picture_is_in_one_part(folder: Path) -> None:
    data, test = load_training_data(folder, SIZE), load_test_split(folder, SIZE)
    assert data.labels == labels_of(folder) == ("blue", "green", "red")
    assert data.name == "colours, a folder of pictures"
    parts = [data.train, data.validation, test]
    assert sum(map(len, parts)) == 180
    assert len(set.union(*(rows(part.images) for part in parts))) == 180
    assert 100 < len(data.train) < 170
    assert len(data.validation) > 5
    assert len(test) > 5
    for part in parts:
        assert part.images.shape[1:] == (SIZE, SIZE, 3)
        strongest = part.images.float().mean((1, 2)).argmax(1)
        assert torch.equal(2 - part.labels, strongest)  # blue is the first class and the last channel


def test_the_order_is_as_good_as_random_and_always_the_same(folder: Path) -> None:
    once, again = load_training_data(folder, SIZE), load_training_data(folder, SIZE)
    assert torch.equal(once.train.images, again.train.images)
    assert len(set(once.train.labels[:20].tolist())) == 3


def test_a_picture_stays_where_it_is_when_others_come_or_it_moves(folder: Path) -> None:
    before = rows(load_test_split(folder, SIZE).images)
    fill(folder, 30, first=100)
    (folder / "red" / "0.png").rename(folder / "red" / "renamed.png")
    after = load_training_data(folder, SIZE)
    assert before <= rows(load_test_split(folder, SIZE).images)
    assert not before & (rows(after.train.images) | rows(after.validation.images))


def test_copies_of_a_picture_are_all_in_the_same_part(folder: Path) -> None:
    for file in list((folder / "red").glob("*.png")):
        shutil.copy(file, file.with_name(f"copy-{file.name}"))
    train, test = load_training_data(folder, SIZE).train, load_test_split(folder, SIZE)
    assert not rows(train.images) & rows(test.images)


def test_who_has_divided_the_pictures_is_followed(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(folder, own / "train")
    fill(own / "test", 5, first=200)
    data, test = load_training_data(own, SIZE), load_test_split(own, SIZE)
    assert (len(data.train) + len(data.validation), len(test)) == (180, 15)
    assert 5 < len(data.validation) < 40
    fill(own / "validation", 4, first=300)
    data = load_training_data(own, SIZE)
    assert (len(data.train), len(data.validation)) == (180, 12)


@pytest.mark.parametrize("names", [("train", "val"), ("train", "valid", "test"), ("Training", "Validation", "Testing")])
def test_parts_go_by_their_other_names_too(names: tuple[str, ...], tmp_path: Path) -> None:
    for first, name in enumerate((*names, "test")[:3]):
        fill(tmp_path / name, 4, first=100 * first)
    data, test = load_training_data(tmp_path, SIZE), load_test_split(tmp_path, SIZE)
    assert data.labels == tuple(sorted(COLOURS))
    assert [len(part) for part in (data.train, data.validation, test)] == [12, 12, 12]


@pytest.mark.parametrize(
    ("begins", "part"),
    [
        ("00", "test"),
        ("1999", "test"),
        ("199a", "validation"),
        ("3333", "validation"),
        ("3334", "train"),
        ("ff", "train"),
    ],
)
def test_a_tenth_of_all_contents_is_the_tests_and_the_next_the_validations(begins: str, part: str) -> None:
    digest = bytes.fromhex(begins.ljust(64, "0"))
    assert pictures._part_of(digest, ("test", "validation")) == part
    assert pictures._part_of(digest, ()) == "train"


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_class_may_be_called_as_a_part_is(name: str, folder: Path) -> None:
    (folder / "red").rename(folder / name)
    assert labels_of(folder) == ("blue", "green", name)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("train", "val"), r"has a folder train and val and none for the test; make .*test, or do without"),
        (("test", "val"), r"has a folder test and val and none to learn from; make .*train, or do without"),
        (("train", "test", "unlabelled"), "divided into test and train, and there is no place in it for unlabelled;"),
        (("train", "val", "valid"), "divided into train and valid, and there is no place in it for val;"),
    ],
)
def test_parts_are_never_taken_for_classes(names: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    for name in names:
        fill(tmp_path / name, 4)
    with pytest.raises(DataError, match=sentence):
        load_training_data(tmp_path, SIZE)


def test_a_folder_whose_name_looks_like_a_pictures_is_a_folder(folder: Path) -> None:
    (folder / "red" / "0.png").rename(folder / "0.png")
    (folder / "red" / "album.png").mkdir()
    (folder / "0.png").rename(folder / "red" / "album.png" / "0.png")
    data = load_training_data(folder, SIZE)
    assert len(data.train) + len(data.validation) + len(load_test_split(folder, SIZE)) == 180


def test_pictures_behind_a_link_are_learned_from(folder: Path) -> None:
    expected = load_training_data(folder, SIZE)
    (folder / "red" / "more").rename(folder.parent / "elsewhere")
    (folder / "red" / "more").symlink_to(folder.parent / "elsewhere")
    assert torch.equal(load_training_data(folder, SIZE).train.images, expected.train.images)


def test_a_class_of_links_that_lead_nowhere_is_told_and_a_single_one_is_skipped(folder: Path) -> None:
    expected = load_training_data(folder, SIZE)
    (folder / "red" / "lost.png").symlink_to(folder / "nowhere.png")
    (folder / "none").mkdir()
    assert torch.equal(load_training_data(folder, SIZE).train.images, expected.train.images)
    (folder / "none" / "deep").mkdir()
    for place in ("0.png", "deep/1"):
        (folder / "none" / place).symlink_to(folder / "nowhere.png")
    with pytest.raises(DataError, match=r"none holds no picture, only 2 links that lead nowhere; mend them, or move"):
        load_training_data(folder, SIZE)


def test_a_name_that_no_model_could_hold_is_told_before_anything_is_learned(folder: Path) -> None:
    bad = Path(os.fsdecode(bytes(folder) + b"/ros\xe9"))
    (folder / "red").rename(bad)
    with pytest.raises(DataError, match=r"folder '.*/ros\\udce9' is not UTF-8; rename it"):
        load_training_data(folder, SIZE)
    bad.rename(folder / "red")
    with pytest.raises(DataError, match=r"folder '.*/\\udce9' is not UTF-8; rename it"):
        load_training_data(folder.rename(os.fsdecode(bytes(folder.parent) + b"/\xe9")), SIZE)


def test_the_ends_of_other_files_names_are_printed_be_they_text_or_not(folder: Path) -> None:
    Path(os.fsdecode(bytes(folder) + b"/red/a.\xe9")).touch()
    assert str(load_training_data(folder, SIZE)).encode().endswith(rb"files not looked at: 1 *.\udce9")


def test_folders_whose_names_are_one_to_a_reader_are_one_class(folder: Path) -> None:
    (folder / "red").rename(folder / "ros\u00e9")
    (folder / "ros\u00e9" / "more").rename(folder / "rose\u0301")
    data = load_training_data(folder, SIZE)
    assert data.labels == labels_of(folder) == ("blue", "green", "ros\u00e9")
    assert len(data.train) + len(data.validation) + len(load_test_split(folder, SIZE)) == 180


def test_what_is_hidden_is_left_alone_at_any_depth(folder: Path) -> None:
    expected = load_training_data(folder, SIZE)
    shutil.copytree(folder / "green", folder / "red" / ".thumbnails" / "small")
    assert rows(load_training_data(folder, SIZE).train.images) == rows(expected.train.images)
    assert len(load_training_data(folder, SIZE).train) == len(expected.train)


def test_one_picture_in_two_classes_is_told(folder: Path) -> None:
    for number in range(60):
        content = next((folder / "red").rglob(f"{number}.[pP][nN][gG]")).read_bytes()
        (folder / "blue" / f"copy-{number}.png").write_bytes(content)
    with pytest.raises(
        DataError, match=r"blue/copy-\d+.png and red/\S+.(png|PNG) are one picture in two classes, and 59 more"
    ):
        load_training_data(folder, SIZE)


@pytest.fixture
def divided(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "own" / "train")
    return fill(tmp_path / "own" / "test", 4, first=200).parent


def test_what_is_bad_in_the_test_part_is_told_before_anything_is_learned(divided: Path) -> None:
    load_training_data(divided, SIZE)
    copy = divided / "test" / "blue" / "copy.png"
    shutil.copy(divided / "test" / "red" / "201.PNG", copy)
    with pytest.raises(
        DataError, match=r"test/blue/copy.png and test/red/201.PNG are one picture in two classes; keep"
    ):
        load_training_data(divided, SIZE)
    copy.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of the files in .* can't be read as pictures: test/blue/copy.png; mend"):
        load_training_data(divided, SIZE)


def test_what_is_learned_from_is_no_test(divided: Path) -> None:
    shutil.copy(divided / "train" / "red" / "3.PNG", divided / "test" / "red" / "copy.png")
    for load in (load_training_data, load_test_split):
        with pytest.raises(
            DataError, match=r"test/red/copy.png and train/red/3.PNG are one picture in two parts; keep"
        ):
            load(divided, SIZE)


def test_what_is_no_picture_by_its_name_is_left_alone(folder: Path) -> None:
    expected = load_training_data(folder, SIZE)
    (folder / "notes.txt").write_text("to do")
    (folder / "red" / "Thumbs.db").write_bytes(b"db")
    (folder / "red" / "._1.png").write_bytes(b"of another system")
    (folder / ".cache").mkdir()
    (folder / "empty").mkdir()
    found = load_training_data(folder, SIZE)
    assert found.labels == expected.labels
    assert torch.equal(found.train.images, expected.train.images)


def test_what_is_learned_from_and_what_is_left_alone_are_told(folder: Path) -> None:
    (folder / "red" / "notes.txt").write_text("to do")
    for number in range(2):
        (folder / "green" / f"{number}.HEIC").write_bytes(b"of a telephone")
    data = load_training_data(folder, SIZE)
    counts = torch.bincount(data.train.labels).tolist()
    assert str(data) == (
        f"colours, a folder of pictures: {len(data.train)} images to learn from (blue {counts[0]}, green {counts[1]}, "
        f"red {counts[2]}), {len(data.validation)} to validate on; files not looked at: 2 *.heic, 1 *.txt"
    )


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (("",), "1 *.jpg beside the folders, 1 *.csv, 1 *.png beside the folders"),
        (("train", "test"), "2 *.png beside the folders, 1 *.jpg beside the folders, 1 *.csv"),
    ],
)
def test_what_lies_beside_the_folders_of_classes_is_counted(parts: tuple[str, ...], told: str, tmp_path: Path) -> None:
    for first, part in enumerate(parts):
        fill(tmp_path / part, 30, first=100 * first)
        (tmp_path / part / "lost.PNG").write_bytes(encode(speckled("red", 99)))
    for name in ("cover.jpg", "labels.csv", ".hidden.png"):
        (tmp_path / name).touch()
    assert str(load_training_data(tmp_path, SIZE)).endswith(f"; files not looked at: {told}")


def test_a_class_all_of_whose_pictures_are_in_an_unknown_format_is_told(folder: Path) -> None:
    for file in sorted((folder / "red").rglob("*.png")) + sorted((folder / "red").rglob("*.PNG")):
        file.rename(file.with_suffix(".heic"))
    with pytest.raises(DataError, match=r"red holds no picture in a known format .*only files called \*.heic; convert"):
        load_training_data(folder, SIZE)


def test_many_classes_are_counted_together(folder: Path) -> None:
    names = tuple(f"class-{number:02}" for number in range(13))
    data = load_training_data(fill(folder.with_name("many"), 25, names=names), SIZE)
    assert "images to learn from (13 classes of " in str(data)


def test_bad_pictures_are_all_counted_and_some_named(folder: Path) -> None:
    contents = (b"%d" % number for number in range(400))
    held_out: tuple[pictures.Part, ...] = ("test", "validation")
    bad = [each for each in contents if pictures._part_of(hashlib.sha256(each).digest(), held_out) == "train"]
    for content in bad[:5]:
        (folder / "red" / f"{content.decode()}.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"^5 of the files in .* can't be read as pictures: red/\d+.jpg, .*, …; mend"):
        load_training_data(folder, SIZE)
    assert len(load_test_split(folder, SIZE))  # where they are not


def test_pictures_that_are_merely_too_large_are_told_as_such(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MOST_PIXELS", 24 * 20)
    load_training_data(folder, SIZE)
    for name in ("large.png", "large.jpg"):
        (folder / "red" / name).write_bytes(encode(photo(25, 20), "JPEG" if name.endswith("jpg") else "PNG"))
    told = r"^2 of the files in .* are pictures of more than 480 pixels: red/large.\w+, red/large.\w+; make them"
    with pytest.raises(DataError, match=told):
        load_training_data(folder, SIZE)
    (folder / "red" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"^1 of the files in .* can't be read as pictures: red/bad.png; mend"):
        load_training_data(folder, SIZE)


def test_pictures_of_one_class_or_none_are_told(folder: Path) -> None:
    for name in ("red", "green"):
        shutil.rmtree(folder / name)
    with pytest.raises(DataError, match="of one class only, blue"):
        load_training_data(folder, SIZE)
    shutil.rmtree(folder / "blue")
    with pytest.raises(DataError, match=r"There is no CIFAR-10 at .* and no folder of pictures"):
        load_training_data(folder, SIZE)


def test_parts_without_classes_are_told(tmp_path: Path) -> None:
    for number, part in enumerate(("train", "test")):
        (tmp_path / part).mkdir()
        (tmp_path / part / "1.png").write_bytes(encode(speckled("red", number)))
    with pytest.raises(DataError, match=r"train has no folder with pictures in it; make one for each class\.$"):
        load_training_data(tmp_path, SIZE)


def test_too_few_pictures_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few pictures"):
        load_training_data(fill(tmp_path / "few", 1), SIZE)


def test_parts_that_do_not_fit_together_are_told(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(folder, own / "train")
    with pytest.raises(DataError, match="a folder train and none for the test"):
        load_training_data(own, SIZE)
    fill(own / "test", 2, names=("red", "violet"))
    with pytest.raises(DataError, match=r"test has classes that .*train has not: violet"):
        load_training_data(own, SIZE)


def test_pictures_of_any_size_come_out_at_the_size_asked_for(tmp_path: Path) -> None:
    for name, height in (("a", 80), ("b", 90)):
        (tmp_path / name).mkdir()
        for number in range(30):
            (tmp_path / name / f"{number}.jpg").write_bytes(encode(photo(100 + number, height), "JPEG"))
    assert load_training_data(tmp_path, 48).train.images.shape[1:] == (48, 48, 3)
