"""Lists of paths, one a line."""

from __future__ import annotations

import io

import pytest

from service.errors import InvalidSource
from service.jobs.inputs import Input, Limits
from service.jobs.sources.lists import LONGEST_LINE, list_inputs


def listed(content: bytes) -> list[str]:
    def named(path: str) -> Input:
        return Input(path, lambda: b"")

    found = list_inputs(named, io.BytesIO(content), len(content), Limits())
    return [str(getattr(read, "detail", each.id)) for each in found for read in [each.content()]]


def test_each_line_is_a_path_and_empty_ones_are_none() -> None:
    assert listed(b"a.png\r\n\n  b c.png \nd.png") == ["a.png", "b c.png", "d.png"]


def test_a_mark_at_the_beginning_is_no_part_of_a_path() -> None:
    assert listed(b"\xef\xbb\xbfa.png\n") == ["a.png"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_list_in_another_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(InvalidSource, match="save it as UTF-8"):
        listed("\ufeffa.png".encode(encoding))


@pytest.mark.parametrize("line", [b"a\0b", b"x" * LONGEST_LINE, b"x" * (2 * LONGEST_LINE - 1), b"x" * 5 * LONGEST_LINE])
def test_a_line_that_is_no_path_has_its_error(line: bytes) -> None:
    error = "The line is no path; write one path per line."
    assert listed(b"a.png\n" + line) == ["a.png", error]
    assert listed(b"a.png\n" + line + b"\nb.png\n") == ["a.png", error, "b.png"]
