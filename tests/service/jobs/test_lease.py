"""A claim that is held while it is worked on, and what becomes of it when that does not end."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import pytest

from service.errors import DeviceLost, Draining, StorageFailed
from service.jobs.lease import POSTPONED_S, held

CLAIM = Mock()


def work(**changes: object) -> Mock:
    """What holds on to a lease for so long that nobody renews it, unless `changes` say otherwise."""
    return Mock(**{"lease_s": 3600.0, **changes})


def test_work_that_ends_well_leaves_its_claim_alone() -> None:
    one = work()

    async def scenario() -> None:
        async with held(one, CLAIM):
            pass

    asyncio.run(scenario())
    assert one.method_calls == []


def test_a_lease_is_renewed_while_the_body_works() -> None:
    async def scenario() -> None:
        renewed, loop = asyncio.Event(), asyncio.get_running_loop()

        def renew(_claim: object) -> bool:
            loop.call_soon_threadsafe(renewed.set)
            return True

        async with asyncio.timeout(30), held(work(lease_s=0.003, renew=renew), CLAIM):
            for _ in range(3):
                await renewed.wait()
                renewed.clear()

    asyncio.run(scenario())


def test_a_lease_that_could_not_be_renewed_once_is_renewed_the_next_time() -> None:
    async def scenario() -> None:
        renewed, loop = asyncio.Event(), asyncio.get_running_loop()
        outcomes = iter([StorageFailed("busy")])

        def renew(_claim: object) -> bool:
            if failure := next(outcomes, None):
                raise failure
            loop.call_soon_threadsafe(renewed.set)
            return True

        async with asyncio.timeout(30), held(work(lease_s=0.003, renew=renew), CLAIM):
            await renewed.wait()

    asyncio.run(scenario())


def test_work_that_is_taken_away_ends_and_who_did_it_goes_on() -> None:
    one = work(lease_s=0.003, renew=Mock(return_value=False))

    async def scenario() -> None:
        async with asyncio.timeout(30), held(one, CLAIM):
            await asyncio.Event().wait()
        await asyncio.sleep(0)  # as any other task

    asyncio.run(scenario())
    assert not one.release.called
    assert not one.postpone.called


@pytest.mark.parametrize("release", [Mock(), Mock(side_effect=StorageFailed("full"))])
def test_a_process_that_stops_lets_go_and_ends_even_where_that_fails(release: Mock) -> None:
    one = work(release=release)

    async def scenario() -> None:
        begun = asyncio.Event()

        async def do() -> None:
            async with held(one, CLAIM):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(do())
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(scenario())
    release.assert_called_once_with(CLAIM)
    assert not one.postpone.called


async def fail(one: Mock, error: Exception) -> None:
    async with held(one, CLAIM):
        raise error


@pytest.mark.parametrize("error", [Draining("stopping"), DeviceLost()])
def test_trouble_of_this_process_alone_leaves_the_work_to_others_at_once(error: Exception) -> None:
    one = work()
    with pytest.raises(type(error)):
        asyncio.run(fail(one, error))
    one.release.assert_called_once_with(CLAIM)
    assert not one.postpone.called


@pytest.mark.parametrize("error", [StorageFailed("full"), RuntimeError("a mistake")])
def test_other_trouble_puts_the_work_off(error: Exception) -> None:
    one = work()
    with pytest.raises(type(error)):
        asyncio.run(fail(one, error))
    one.postpone.assert_called_once_with(CLAIM, POSTPONED_S)
    assert not one.release.called
