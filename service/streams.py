"""What a command says → whoever reads it, in whatever encoding, or nobody: neither ends it in a traceback.

What can't be written to stdout raises `StartupError`: a command's answer is not lost in silence.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

from service.errors import StartupError


def open_streams() -> None:
    """Have stdout take any text; what was closed leads nowhere, lest a socket be given its number and be written to."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(nowhere, True)  # worker processes have the same streams
            setattr(sys, name, os.fdopen(nowhere, mode, encoding="utf-8"))
        elif name == "stdout" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # as stderr does from the start


def say(text: str) -> None:
    """Print it on stdout, now; raises `StartupError` where that fails, after which stdout leads nowhere."""
    try:
        print(text, flush=True)  # noqa: T201 - for all commands
    except OSError as exc:
        finish_streams()
        raise StartupError(f"What there is to say can't be written to stdout: {exc.strerror}.") from exc


def tell(sentence: str) -> None:
    """Say it on stderr, if anybody is there."""
    with suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)  # noqa: T201 - likewise


def finish_streams() -> None:
    """Let go of what nobody takes any more, or the interpreter's last flush complains."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
