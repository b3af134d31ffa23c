"""The load on the service is enough for every worker, and no more than its queue has room for."""

from __future__ import annotations

import math

import pytest

from service.settings import Settings
from tests.gpu.serving import BULK, WORKERS, load


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("cores", [16, 24])
def test_bulk_requests_keep_workers_busy_and_none_is_refused(workers: int, cores: int) -> None:
    generators, connections = load("bulk", workers, cores)
    assert generators * connections >= workers
    assert math.ceil(generators * connections / workers) * BULK <= Settings.model_fields["queue_capacity"].default
