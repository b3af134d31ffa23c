"""models/<name>/serving.json: which of a model's versions its operator wants, kept where the versions are.

Without the file every version serves, and the highest is active. It is read with the versions, so that it holds for all
worker processes and over restarts; a file that says nothing understandable raises `ValueError`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

FILE_NAME = "serving.json"
NOT_UNDERSTOOD = f'{FILE_NAME} must be {{"active": "<version>" or null, "unloaded": ["<version>", …]}}'


@dataclass(frozen=True)
class Choice:
    """The version that answers when none is named, by default the highest, and those that are not to be loaded."""

    active: str | None = None
    unloaded: frozenset[str] = frozenset()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What is wanted of the model in `folder`; raises `OSError` or `ValueError`."""
        try:
            said = json.loads((folder / FILE_NAME).read_bytes())
        except FileNotFoundError:
            return cls()
        except ValueError as exc:  # no JSON, or no UTF-8
            raise ValueError(NOT_UNDERSTOOD) from exc
        active, unloaded = (said.get("active"), said.get("unloaded", [])) if isinstance(said, dict) else (0, 0)
        if not (active is None or isinstance(active, str)) or not isinstance(unloaded, list):
            raise ValueError(NOT_UNDERSTOOD)
        return cls(active, frozenset(map(str, unloaded)))

    def write(self, folder: Path) -> None:
        """Keep it, all or nothing; raises `OSError`."""
        partial = folder / (FILE_NAME + ".partial")
        said = {"active": self.active, "unloaded": sorted(self.unloaded)}
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(said) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(folder / FILE_NAME)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process changes its mind about the model in `folder`, and let none meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
