"""A chunk's images → one outcome each, by the classifier that answers requests, in pieces that take turns with them.

Pieces are so small that a request behind one hardly waits; where bulk work has a thread of its own they are as large as
the engine takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from service.classifier import Classifier
from service.errors import DeviceLost, InferenceFailed, InvalidImage, Overloaded, ServiceError
from service.prediction import ModelIdentity, Prediction
from service.queueing import Priority
from service.serving import Served

PIECE_S = 0.008  # how long a piece may keep the engine from requests; a single image may take longer
TURNS = 16  # of the event loop before each piece: a request takes several from its arrival to its answer


class Pieces:
    """How many images of each model may go at a time, by how long they took lately."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._sizes: dict[ModelIdentity, int] = {}

    async def classify(
        self, contents: Sequence[bytes | InvalidImage], served: Served
    ) -> list[Prediction | ServiceError]:
        """One outcome per image, in order; raises `DeviceLost`, and what `Classifier.classify` does besides."""
        outcomes: list[Prediction | ServiceError] = []
        engine = served.loaded.engine
        while len(outcomes) < len(contents):
            size = engine.max_batch_size if engine.background else self._sizes.get(served.loaded.identity, 1)
            piece = contents[len(outcomes) : len(outcomes) + size]
            if not engine.background:
                for _ in range(TURNS):
                    await asyncio.sleep(0)
            began = time.monotonic()
            try:
                outcomes += await self._classifier.classify(piece, model=served, priority=Priority.BULK)
            except Overloaded as exc:  # requests first
                await asyncio.sleep(exc.retry_after_s or 1)
                continue
            except InferenceFailed as exc:  # on every image of the piece
                outcomes += [exc] * len(piece)
            if engine.lost:  # perhaps on some of them: their rows are for the process that comes next
                raise DeviceLost
            self._pace(served, size, len(piece), time.monotonic() - began)
        return outcomes

    def _pace(self, served: Served, size: int, count: int, took_s: float) -> None:
        """Pieces that take turns with requests grow and shrink with the time they take, their waiting included."""
        if took_s > PIECE_S:
            self._sizes[served.loaded.identity] = max(1, size // 2)
        elif took_s < PIECE_S / 3 and count == size:
            self._sizes[served.loaded.identity] = min(2 * size, served.loaded.engine.max_batch_size)
