"""Lists of paths, one a line → inputs."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import BinaryIO

from service.errors import InvalidSource
from service.jobs.inputs import Input, Limits, refused, text

LIST_SUFFIX = ".txt"
LONGEST_LINE = 32 << 10
OTHER_ENCODINGS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def list_inputs(named: Callable[[str], Input], stream: BinaryIO, _size: int, _limits: Limits) -> Iterator[Input]:
    """What each line names, as `named` tells; raises `InvalidSource` where the list is UTF-16."""
    line = stream.readline(LONGEST_LINE)
    if line.startswith(OTHER_ENCODINGS):
        raise InvalidSource("The list is UTF-16; save it as UTF-8.")
    line = line.removeprefix(codecs.BOM_UTF8)
    while line:
        path = line.decode("utf-8", "surrogateescape").strip()  # a file's name may be any bytes
        if len(line) == LONGEST_LINE or "\0" in path:
            yield refused(text(path[:64]), "The line is no path; write one path per line.")
            while line and not line.endswith(b"\n"):  # what is left of it is no line of its own
                line = stream.readline(LONGEST_LINE)
        elif path:
            yield named(path)
        line = stream.readline(LONGEST_LINE)
