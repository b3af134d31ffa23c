"""What an operator wants of a model's versions, kept in a file beside them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from service.choices import FILE_NAME, Choice, one_at_a_time


def test_without_a_file_everything_is_wanted_and_nothing_is_said_of_what_is_active(tmp_path: Path) -> None:
    assert Choice.read(tmp_path) == Choice(None, frozenset())


@pytest.mark.parametrize("choice", [Choice(), Choice("3"), Choice("3", frozenset({"10", "2"}))])
def test_what_was_kept_is_read_again_and_nothing_else_is_left(tmp_path: Path, choice: Choice) -> None:
    Choice("7").write(tmp_path)
    choice.write(tmp_path)
    assert Choice.read(tmp_path) == choice
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b'"3"', b'{"active": 3}', b'{"unloaded": "3"}', b'{"unloaded": null}']
)
def test_what_is_not_understood_is_no_choice(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(ValueError, match=r"^serving\.json must be "):
        Choice.read(tmp_path)


def test_whoever_else_wants_to_change_it_waits(tmp_path: Path) -> None:
    asking, entered = threading.Event(), threading.Event()

    def other() -> None:
        asking.set()
        with one_at_a_time(tmp_path):
            entered.set()

    with one_at_a_time(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        assert asking.wait(30)
        assert not entered.wait(0.2)
    assert entered.wait(30)
    thread.join()
