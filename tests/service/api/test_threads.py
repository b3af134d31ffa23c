"""Each kind of work has threads of its own, and waits behind no other kind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from service.api.threads import added_up, deleted, parsed, waited
from service.errors import DeadlineExceeded
from tests.service.conftest import noting_threads

Work = Callable[[], object]
KINDS: dict[str, Callable[[Work], Awaitable[object]]] = {
    "parse": partial(parsed, None),
    "count": added_up,
    "wait": waited,
    "delete": deleted,
}
THREADS = {"parse": 2, "count": 1, "wait": 4, "delete": 4}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_work_has_threads_of_its_own(kind: str) -> None:
    threads: list[str] = []

    async def scenario() -> None:
        await KINDS[kind](noting_threads(lambda: None, threads))

    asyncio.run(scenario())
    assert threads == [kind]


def test_what_comes_of_the_work_is_returned() -> None:
    async def scenario() -> None:
        assert await parsed(None, divmod, 7, 2) == (3, 1)
        assert await added_up(divmod, 7, 2) == (3, 1)
        assert await waited(divmod, 7, 2) == (3, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_more_work_of_one_kind_than_it_has_threads_keeps_no_other_waiting(kind: str) -> None:
    begun, release = threading.Semaphore(0), threading.Event()

    def hold() -> None:
        begun.release()
        release.wait(30)

    async def scenario() -> None:
        held = [asyncio.ensure_future(KINDS[kind](hold)) for _ in range(THREADS[kind] + 1)]
        for _ in range(THREADS[kind]):
            assert await asyncio.to_thread(begun.acquire, timeout=20)
        for other in KINDS.keys() - {kind}:
            await asyncio.wait_for(KINDS[other](list), 20)
        release.set()
        await asyncio.gather(*held)

    try:
        asyncio.run(scenario())
    finally:
        release.set()


def test_what_is_parsed_is_waited_for_no_longer_than_the_request_may_take() -> None:
    release = threading.Event()

    async def scenario() -> None:
        with pytest.raises(DeadlineExceeded):
            await parsed(asyncio.get_running_loop().time() + 0.02, release.wait, 30)

    try:
        asyncio.run(scenario())
    finally:
        release.set()
