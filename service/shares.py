"""How many images each client has under way, so that none can take the whole queue from the others.

Who asks is told by whoever takes the request, for as long as its task runs; the service's own work is nobody's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from service.errors import TooManyRequests

client: ContextVar[bytes] = ContextVar("client", default=b"")


class Shares:
    """What clients have under way in this process, up to `most` images each."""

    def __init__(self, most: int) -> None:
        self._most, self._under_way = most, Counter[bytes]()

    @contextmanager
    def hold(self, images: int) -> Iterator[None]:
        """Count them for the client that asks; raises `TooManyRequests` when it would have more than its share."""
        who = client.get()
        if not who:
            yield
            return
        if self._under_way[who] + images > self._most:
            raise TooManyRequests(
                f"You may have {self._most:,} images under way here at a time; wait until some of them are answered."
            )
        self._under_way[who] += images
        try:
            yield
        finally:
            self._under_way[who] -= images
            if not self._under_way[who]:
                del self._under_way[who]
