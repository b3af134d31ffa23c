"""Checkpoints are whole or absent, and hold no code."""

from __future__ import annotations

import pickle
import re
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training import checkpoint as checkpoints
from training.architectures import ARCHITECTURES
from training.checkpoint import FILE_NAME, Checkpoint, EpochRecord, Teacher, claimed, load_teacher
from training.errors import CheckpointError
from training.recipes import RECIPES


@pytest.fixture
def saved() -> Checkpoint:
    return Checkpoint(
        recipe="cifar10-plain",
        config=RECIPES["cifar10-plain"],
        labels=("a", "b"),
        step=3,
        total_steps=9,
        epoch_loss=1.5,
        model={"w": torch.ones(2)},
        optimizer={"state": {}},
        lookahead=[torch.zeros(2)],
        grad_scaler={},
        history=(EpochRecord(1, 0.5, 0.9, 100.0),),
        provenance={"torch": "2"},
        teachers=(Teacher("a", RECIPES["cifar10-teacher-24"], ("a", "b"), {"w": torch.zeros(2)}, {"torch": "2"}),),
        answers=torch.ones((1, 2, 2), dtype=torch.float16),
        learned_from=torch.tensor([-3, 5]),
    )


def test_it_comes_back_as_it_was(saved: Checkpoint, tmp_path: Path) -> None:
    checkpoints.save(saved, tmp_path / "run")
    found = checkpoints.load(tmp_path / "run")
    assert torch.equal(found.model["w"], saved.model["w"])
    assert (found.config, found.history, found.step) == (saved.config, saved.history, saved.step)
    assert not found.finished
    assert found.answers is not None
    assert torch.equal(found.answers, torch.ones((1, 2, 2), dtype=torch.float16))
    assert found.learned_from is not None
    assert found.learned_from.tolist() == [-3, 5]
    (teacher,) = found.teachers
    assert torch.equal(teacher.model["w"], torch.zeros(2))
    assert replace(teacher, model={}) == replace(saved.teachers[0], model={})


@pytest.mark.parametrize(("step", "finished"), [(8, False), (9, True)])
def test_a_run_is_finished_after_its_last_step(saved: Checkpoint, step: int, finished: bool) -> None:
    assert replace(saved, step=step).finished is finished


@pytest.mark.parametrize("told", ["bfloat16", "float32, then bfloat16", "bfloat16, then float32, then bfloat16"])
def test_its_precision_is_that_of_its_last_step(saved: Checkpoint, told: str) -> None:
    assert replace(saved, provenance={"precision": told}).precision == "bfloat16"


def test_one_epoch_that_learned_from_the_validation_images_held_nothing_back(saved: Checkpoint) -> None:
    assert not saved.held_nothing_back
    assert replace(saved, history=(*saved.history, EpochRecord(2, 0.4, None, 100.0))).held_nothing_back


def test_a_teacher_knows_what_it_learned_from(saved: Checkpoint, tmp_path: Path) -> None:
    checkpoints.save(replace(saved, step=9), tmp_path)
    learned_from = load_teacher(tmp_path).learned_from
    assert learned_from is not None
    assert learned_from.tolist() == [-3, 5]


def test_one_that_does_not_know_what_it_learned_from_opens(saved: Checkpoint, tmp_path: Path) -> None:
    checkpoints.save(replace(saved, step=9), tmp_path)
    state = torch.load(tmp_path / FILE_NAME, weights_only=True)
    del state["learned_from"]
    for teacher in state["teachers"]:
        del teacher["learned_from"]
    torch.save(state, tmp_path / FILE_NAME)
    assert checkpoints.load(tmp_path).learned_from is None
    assert load_teacher(tmp_path).learned_from is None


def test_one_that_was_made_on_a_gpu_opens_without(
    saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as on_gpu:
        on_gpu.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")  # what marks a tensor in the file
        checkpoints.save(saved, tmp_path)
    assert checkpoints.load(tmp_path).model["w"].device.type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(tmp_path / FILE_NAME, weights_only=True)


def test_a_failed_write_leaves_the_old_one(saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save(saved, tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        checkpoints.save(saved, tmp_path)
    assert checkpoints.load(tmp_path).step == 3


def test_what_does_not_fit_onto_the_disk_is_one_sentence_and_leaves_nothing(saved: Checkpoint, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match="can't be written: File too large"):
            checkpoints.save(replace(saved, model={"w": torch.ones(1_000_000)}), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        claimed(tmp_path / "run"),
        pytest.raises(CheckpointError, match=r"Another process is training into .*run; wait"),
        claimed(tmp_path / "run"),
    ):
        pass
    with claimed(tmp_path / "run"):
        assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CheckpointError, match=r"Nothing can be written into .*file/run: Not a directory"),
        claimed(tmp_path / "file" / "run"),
    ):
        pass


def test_no_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"<html>",
        b'{"a": 1}',
        b"PK\x03\x04",
        b"\x80\x04\x95",
        "été".encode("latin1"),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n",
        pickle.dumps({"step": 1}, protocol=2),
    ],
)
def test_a_damaged_checkpoint_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged, or no checkpoint; restore it from a copy, or train into"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize("state", [torch.zeros(3), [1], "x", None, {"a": 1}, {"config": 3}, {"config": {}}])
def test_a_file_of_something_else_is_one_sentence(state: object, tmp_path: Path) -> None:
    torch.save(state, tmp_path / FILE_NAME)
    with pytest.raises(CheckpointError, match="was not made by this version"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize("change", [{"colour": "red"}, {"architecture": "of-next-year"}])
def test_one_of_another_version_is_not_called_damaged(
    change: dict[str, str], saved: Checkpoint, tmp_path: Path
) -> None:
    checkpoints.save(saved, tmp_path)
    state = torch.load(tmp_path / FILE_NAME, weights_only=True)
    state["config"].update(change)
    torch.save(state, tmp_path / FILE_NAME)
    told = r"checkpoint.pt was not made by this version of Convoy; use the version that made it, or train anew into"
    with pytest.raises(CheckpointError, match=told) as raised:
        checkpoints.load(tmp_path)
    assert "remove" not in str(raised.value)
    assert "damaged" not in str(raised.value)


def test_weights_of_another_version_are_one_sentence(saved: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="The network of a run of cifar10-plain was not made by this version"):
        checkpoints.network_of(saved)


def test_a_network_has_the_size_of_its_pictures_and_is_asked_not_trained(saved: Checkpoint) -> None:
    config = replace(saved.config, architecture="plain-cnn-small", image_size=64)
    trained = ARCHITECTURES[config.architecture](len(saved.labels), size=64)
    found = checkpoints.network_of(replace(saved, config=config, model=trained.state_dict()))
    assert not any(part.training for part in found.modules())
    images = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    assert torch.equal(found(images), trained.eval()(images))


@pytest.mark.parametrize("step", [3, 4])
def test_a_folder_that_is_not_further_on_may_be_gone_on_with(saved: Checkpoint, step: int, tmp_path: Path) -> None:
    checkpoints.check_newest(tmp_path, 0)
    checkpoints.save(saved, tmp_path)
    checkpoints.check_newest(tmp_path, step)
    with pytest.raises(CheckpointError, match=r"trained .* to step 3; go on from there"):
        checkpoints.check_newest(tmp_path, 2)


def _more_than_there_is(*_: object, **__: object) -> torch.Tensor:
    return torch.empty(1 << 60, dtype=torch.uint8)


def _more_than_python_has(*_: object, **__: object) -> bytes:
    raise MemoryError


@pytest.mark.parametrize("read", [_more_than_there_is, _more_than_python_has])
def test_one_that_is_too_large_for_the_memory_is_not_called_damaged(
    read: Callable[..., object], saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(saved, tmp_path)
    monkeypatch.setattr(torch, "load", read)
    with pytest.raises(
        CheckpointError, match=r"checkpoint.pt does not fit into the memory that is free; free some, or"
    ):
        checkpoints.load(tmp_path)


def test_a_cut_off_checkpoint_is_one_sentence(saved: Checkpoint, tmp_path: Path) -> None:
    checkpoints.save(saved, tmp_path)
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError):
        checkpoints.load(tmp_path)


def test_only_a_finished_run_teaches(saved: Checkpoint, tmp_path: Path) -> None:
    run = tmp_path / "my run"
    checkpoints.save(saved, run)
    told = f"3 of 9 steps; finish it with: convoy-train train --resume '{run}', and the --data that it began with"
    with pytest.raises(CheckpointError, match=re.escape(told)):
        load_teacher(run)
    checkpoints.save(replace(saved, step=9), run)
    assert load_teacher(run).recipe == "cifar10-plain"


class Bomb:
    """Whoever unpickles it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.mkdir, (self.path,)


def test_code_in_one_is_not_run(tmp_path: Path) -> None:
    torch.save({"step": Bomb(tmp_path / "ran")}, tmp_path / FILE_NAME)
    with pytest.raises(CheckpointError):
        checkpoints.load(tmp_path)
    assert not (tmp_path / "ran").exists()
