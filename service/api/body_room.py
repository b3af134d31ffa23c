"""How many bytes of bodies a process holds for all its requests.

Each has its own limit; of many that arrive at once the sum would be whatever their clients like.
"""

from __future__ import annotations

from service.errors import Overloaded

SMALL_BYTES = 256 << 10  # a body that is there already and has no more needs no room


class BodyRoom:
    """What they may have together; one alone may have any number, or a large one could never be read."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._held = most_bytes, 0

    def take(self, more: int, own: int = 0) -> None:
        """Hold so many bytes for a request that has `own` already; raises `Overloaded`."""
        if self._held > own and self._held + more > self._most:
            raise Overloaded("Too many large requests are under way; try again in a moment, or send less at a time.")
        self._held += more

    def give_back(self, held: int) -> None:
        """A request needs so many no more."""
        self._held -= held
