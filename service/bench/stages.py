"""The server's own /metrics before and after a run → where the time of its requests went.

What a Convoy server counts about its stages; other servers have no such numbers, and then there is nothing to show.
"""

from __future__ import annotations

import http.client
import re
from typing import NamedTuple

SAMPLE = re.compile(r'convoy_stage_seconds_(sum|count)\{stage="(\w+)"\} (\S+)')
ORDER = ("receive", "decode", "preprocess", "queue", "infer", "respond")
TIMEOUT_S = 5.0


class Stage(NamedTuple):
    """What one stage has come to."""

    seconds: float = 0.0
    requests: float = 0.0


Stages = dict[str, Stage]


def read(host: str, port: int) -> Stages:
    """Every stage since the server's start; empty where the server does not say."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return {}
    finally:
        connection.close()
    found = {(kind, stage): float(value) for kind, stage, value in SAMPLE.findall(text)}
    return {
        stage: Stage(found["sum", stage], found["count", stage])
        for stage in ORDER
        if ("sum", stage) in found and ("count", stage) in found
    }


def table(before: Stages, after: Stages) -> str:
    """Mean microseconds per request in each stage between two readings, as lines of text."""
    rises = {
        name: Stage(
            stage.seconds - before.get(name, Stage()).seconds, stage.requests - before.get(name, Stage()).requests
        )
        for name, stage in after.items()
    }
    return "\n".join(
        f"{name:10}  {rise.seconds / rise.requests * 1e6:10,.0f} µs"
        for name, rise in rises.items()
        if rise.requests > 0
    )
