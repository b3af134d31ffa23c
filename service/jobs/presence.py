"""Which processes of a store live, and which models they have: each holds a lock on a file of its own that says so.

The kernel takes the lock of a process that dies away. All this is done in transactions that write, so that no file is
found between its making and its lock.
"""

from __future__ import annotations

import fcntl
import os
import threading
import uuid
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

Models = Set[str]  # name, version and digest of each


class Presence:
    """One process among those of a store."""

    def __init__(self, root: Path) -> None:
        self.me, self._root = uuid.uuid4().hex, root
        self._file = -1
        self._said: Models = frozenset()
        self._changing = threading.Lock()  # a process that stops does not wait for a thread that still looks for work

    def say(self, models: Models) -> None:
        """This process lives, and has these models; so it is until it ends."""
        with self._changing:
            self._say(models)

    def _say(self, models: Models) -> None:
        if self._file >= 0 and not self._is_there():  # removed with all else: the others would take it for dead
            os.close(self._file)
            self._file = -1
        if self._file < 0:
            self._file, self._said = os.open(self._path(self.me), os.O_RDWR | os.O_CREAT, 0o644), frozenset()
            fcntl.flock(self._file, fcntl.LOCK_EX)
        if models != self._said:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, "\n".join(models).encode(), 0)
            self._said = models

    def lives(self, process: str) -> bool:
        """Whether it does; nothing stays of one that died."""
        if process == self.me:
            return True
        try:
            descriptor = os.open(self._path(process), os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        self._path(process).unlink(missing_ok=True)
        return False

    def models(self) -> Models:
        """What all that live have."""
        found: set[str] = set()
        for path in self._root.glob("worker-*"):
            if self.lives(path.name.removeprefix("worker-")):
                with suppress(FileNotFoundError):  # it has ended just now
                    found.update(path.read_text().splitlines())
        return found

    def close(self) -> None:
        """This process does no more work."""
        with self._changing:
            if self._file >= 0:
                self._path(self.me).unlink(missing_ok=True)
                os.close(self._file)
                self._file = -1

    def _is_there(self) -> bool:
        """Whether this process's file still has its name."""
        try:
            return os.path.samestat(os.fstat(self._file), self._path(self.me).stat())
        except FileNotFoundError:
            return False

    def _path(self, process: str) -> Path:
        return self._root / f"worker-{process}"
