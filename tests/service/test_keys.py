"""A file of keys → the keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import StartupError
from service.keys import read_keys

KEY, OTHER = "0123456789abcdef", "fedcba9876543210"


def test_every_line_but_comments_is_a_key(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# the shop\n{KEY}\n\n  {OTHER}  \r\n")
    assert read_keys(tmp_path / "keys") == [KEY, OTHER]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "There is no key in"),
        (b"# none yet\n\n", "There is no key in"),
        (f"{KEY}\nshort\n".encode(), "Line 2 of .* is no key: use 16 or more characters"),
        (b"two words are no key\n", "Line 1 of"),
        ("schlüssel-der-lang-genug-ist".encode(), "it is no ASCII text"),
    ],
)
def test_a_file_that_lets_in_nobody_or_anybody_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(StartupError, match=told) as caught:
        read_keys(tmp_path / "keys")
    assert "short" not in str(caught.value)  # what may be half a key is nobody's business


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No such file"):
        read_keys(tmp_path / "keys")
