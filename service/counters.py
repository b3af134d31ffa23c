"""Counts that all worker processes share and none can lose: each writes its own strip of one piece of shared memory.

A strip is a number of entries, each a key of at most KEY_BYTES and a float64. Only its owner writes it, aligned 8-byte
stores need no lock, and it outlives the process: whoever takes a dead worker's place goes on counting where it stopped.
Sums over all strips are exact, whichever process makes them. What finds no room is counted where nobody sees it: no
request fails for a number.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

KEY_BYTES = 248
ENTRY_BYTES = KEY_BYTES + 8
ENTRIES = 1 << 14  # memory that is not used is not taken
SPARE = ENTRIES - 1  # is never among those in use
STRIP_BYTES = 8 + ENTRIES * ENTRY_BYTES  # the first eight bytes are the number of entries in use
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of this process: where it is."""

    numbers: memoryview[float]
    index: int

    def add(self, amount: float = 1.0) -> None:
        """Count."""
        self.numbers[self.index] += amount

    def set(self, value: float) -> None:
        """Replace: for gauges."""
        self.numbers[self.index] = value


class Counters:
    """The strip of one process and sight of all of them."""

    def __init__(self, memory: mmap.mmap, strip: int) -> None:
        self._memory, self._strip = memory, strip
        self._numbers = memoryview(memory).cast("d")
        self._lengths = memoryview(memory).cast("Q")
        self._cells = {key: self._cell(strip, entry) for entry, key in self._keys(strip)}

    @classmethod
    def alone(cls) -> Self:
        """For a process without siblings."""
        return cls(mmap.mmap(-1, STRIP_BYTES), 0)

    def cell(self, key: str) -> Cell:
        """This process's number under `key`, made at the first call."""
        if key not in self._cells:
            entry, name = len(self._cells), key.encode()
            if entry == SPARE or len(name) > KEY_BYTES:
                logger.error("there is no room to count %s: too many counts, or too long a name", key)
                return self._cell(self._strip, SPARE)
            start = self._start(self._strip) + entry * ENTRY_BYTES
            self._memory[start : start + KEY_BYTES] = name.ljust(KEY_BYTES, b"\0")
            self._lengths[self._start(self._strip) // 8 - 1] = entry + 1  # last, so that no reader sees half a key
            self._cells[key] = self._cell(self._strip, entry)
        return self._cells[key]

    def forget(self, prefixes: tuple[str, ...]) -> None:
        """Set this process's numbers whose keys begin so to zero: what a dead predecessor held is held no more."""
        for key, cell in self._cells.items():
            if key.startswith(prefixes):
                cell.set(0)

    def totals(self, prefix: str = "") -> dict[str, float]:
        """The sum over all processes of every key that begins so."""
        sums: dict[str, float] = {}
        for strip in range(len(self._memory) // STRIP_BYTES):
            first = (self._start(strip) + KEY_BYTES) // 8
            for entry, key in self._keys(strip, prefix.encode()):
                sums[key] = sums.get(key, 0.0) + self._numbers[first + entry * ENTRY_BYTES // 8]
        return sums

    def _keys(self, strip: int, prefix: bytes = b"") -> Iterator[tuple[int, str]]:
        """Those in use that begin so, each with its entry; the others are not even decoded."""
        for entry in range(self._lengths[self._start(strip) // 8 - 1]):
            start = self._start(strip) + entry * ENTRY_BYTES
            if self._memory[start : start + len(prefix)] == prefix:
                yield entry, self._memory[start : start + KEY_BYTES].rstrip(b"\0").decode()

    def _cell(self, strip: int, entry: int) -> Cell:
        return Cell(self._numbers, (self._start(strip) + entry * ENTRY_BYTES + KEY_BYTES) // 8)

    @staticmethod
    def _start(strip: int) -> int:
        """Where the strip's entries begin."""
        return strip * STRIP_BYTES + 8
