"""Work that would hold up the event loop → its result, each kind in threads of its own.

They are not asyncio's: all of those may be waiting for the disk of batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from service.errors import DeadlineExceeded

Result = TypeVar("Result")
Parts = TypeVarTuple("Parts")
PARSING = ThreadPoolExecutor(2, "parse")  # large bodies: two at a time, so that no batch keeps a prediction waiting
COUNTING = ThreadPoolExecutor(1, "count")  # all workers' counts: one, so that bodies that take seconds delay no scrape
WAITING = ThreadPoolExecutor(4, "wait")  # writes to the list of batches: four, so that a locked list delays no reader
DELETING = ThreadPoolExecutor(4, "delete")  # batches that go: four, so that those who wait for a lock delay no upload


async def parsed(until: float | None, parse: Callable[[*Parts], Result], *parts: *Parts) -> Result:
    """What `parse` makes of `parts` of a request whose time is up at `until`, on the event loop's clock.

    Raises `DeadlineExceeded`.
    """
    try:
        async with asyncio.timeout_at(until):
            return await asyncio.get_running_loop().run_in_executor(PARSING, parse, *parts)
    except TimeoutError as exc:
        raise DeadlineExceeded("The request's time was up before it was read; allow more time.") from exc


async def added_up(add_up: Callable[[*Parts], Result], *parts: *Parts) -> Result:
    """What `add_up` makes of all workers' counts, in a thread that does nothing else."""
    return await asyncio.get_running_loop().run_in_executor(COUNTING, add_up, *parts)


def waited(change: Callable[[*Parts], Result], *parts: *Parts) -> asyncio.Future[Result]:
    """What `change` makes of the list of batches, in one of few threads: no task for an ending loop to cancel."""
    return asyncio.get_running_loop().run_in_executor(WAITING, change, *parts)


async def deleted(delete: Callable[[], object]) -> None:
    """Have `delete` remove a batch."""
    await asyncio.get_running_loop().run_in_executor(DELETING, delete)
