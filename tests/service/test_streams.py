"""What a command says, to readers of every kind and to none."""

from __future__ import annotations

import subprocess
import sys

import pytest

SAYING = """
import sys
from service.errors import StartupError
from service.streams import finish_streams, open_streams, say, tell
open_streams()
try:
    say("├ 1 µs ┤")
except StartupError as exc:
    tell(str(exc))
finish_streams()
"""
CLOSED = """
import os
from service.streams import open_streams
open_streams()
os.execvp("sh", ["sh", "-c", "for number in 0 1 2; do [ /proc/self/fd/$number -ef /dev/null ] || exit 1; done"])
"""


def run(program: str, redirection: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh"]
    return subprocess.run([*shell, sys.executable, "-c", program], capture_output=True, env=environment, check=True)


@pytest.mark.parametrize("buffered", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
def test_what_can_not_be_written_is_one_sentence(buffered: dict[str, str]) -> None:
    done = run(SAYING, ">/dev/full", **buffered)
    assert done.stderr == b"What there is to say can't be written to stdout: No space left on device.\n"


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_where_nobody_is_there_nothing_fails(redirection: str) -> None:
    assert run(SAYING, redirection).stderr == b""


def test_no_socket_is_given_the_number_of_a_stream_that_was_closed_here_or_in_worker_processes() -> None:
    run(CLOSED, "<&- >&- 2>&-")


def test_text_that_the_encoding_has_no_letters_for_is_shown_by_its_numbers() -> None:
    assert run(SAYING, "", PYTHONIOENCODING="ascii").stdout == rb"\u251c 1 \xb5s \u2524" + b"\n"
