"""The event loop of the server and of `convoy bench`: uvloop's where it exists, with a clock as fine as asyncio's.

uvloop's own counts whole milliseconds and stands still within a turn. A small model's batches take less than one: their
pace would be measured as nothing, and a request would be taken on whose time no prediction can meet.
"""

from __future__ import annotations

import asyncio
import sys
import time

if sys.platform == "win32":
    Loop = asyncio.ProactorEventLoop
else:
    import uvloop

    class Loop(uvloop.Loop):
        """Timers count from `time` as everywhere; they are due to the millisecond, as uvloop's are."""

        def time(self) -> float:
            """Seconds of the clock that uvloop's timers go by."""
            return time.monotonic()
