"""A claim, held while it is worked on: renewed in time, and let go, put off or given up when the work does not end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import DeviceLost, Draining, StorageFailed
from service.jobs.work import Claim, Work

POSTPONED_S = 10.0  # after trouble with one batch
logger = logging.getLogger(__name__)


@asynccontextmanager
async def held(work: Work, claim: Claim) -> AsyncIterator[None]:
    """Renew the lease while the body works; end the body when the work has been taken away."""
    body = asyncio.current_task()
    assert body is not None
    taken_away = False

    async def renew() -> None:
        nonlocal taken_away
        while True:
            await asyncio.sleep(work.lease_s / 3)
            try:
                if await asyncio.to_thread(work.renew, claim):
                    continue
            except StorageFailed as exc:  # there is time for another try before the lease ends
                logger.error("batch %s: its lease can't be renewed: %s", claim.batch.id, exc)
                continue
            taken_away = True
            body.cancel()
            return

    renewing = asyncio.create_task(renew())
    try:
        yield
    except asyncio.CancelledError:
        if not taken_away or body.uncancel():
            await _let_go(work, claim)
            raise
    except (Draining, DeviceLost):  # this process's trouble, and no other's
        renewing.cancel()  # it would take what is let go for taken away
        await _let_go(work, claim)
        raise
    except Exception:
        renewing.cancel()
        await asyncio.to_thread(work.postpone, claim, POSTPONED_S)
        raise
    finally:
        renewing.cancel()


async def _let_go(work: Work, claim: Claim) -> None:
    """Leave it to others at once, or else when its lease ends: never does an error hide why it is let go."""
    try:
        await asyncio.to_thread(work.release, claim)
    except Exception as exc:
        logger.error("batch %s waits for a lease to end: %s", claim.batch.id, exc)
