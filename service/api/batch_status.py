"""A batch as the store keeps it → as clients see it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import orjson

from service.jobs.database import Batch

NOT_MEASURED = dict.fromkeys(("measured", "mean_size", "split", "images"))  # where they are not known


def shown(batch: Batch) -> dict[str, Any]:
    """The batch as clients see it."""
    total, now = batch.total, batch.finished or time.time()
    left = None
    if batch.started and batch.done and total and not batch.ended:
        took = max(0.0, now - batch.started)  # the clock may have been set back
        left = round((total - batch.done) * took / batch.done, 1)
    return {
        "id": batch.id,
        "status": batch.status,
        "model": {"name": batch.model, "version": batch.version, "digest": batch.digest},
        "counts": {"total": total, "done": batch.done, "failed": batch.failed},
        "progress": 1.0 if batch.status == "succeeded" else round(batch.done / total, 4) if total else 0.0,
        "eta_seconds": left,
        "created_at": _time(batch.created),
        "started_at": _time(batch.started),
        "finished_at": _time(batch.finished),
        "error": orjson.loads(batch.error) if batch.error else None,
        "coverage": {**NOT_MEASURED, **orjson.loads(batch.coverage)} if batch.coverage else None,
    }


def _time(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds") if seconds else None
