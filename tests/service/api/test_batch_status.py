"""What clients see of a batch."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from service.api.batch_status import shown
from service.jobs.database import Batch

HALF_DONE = Batch(
    number=1, id="batch-1", status="running", model="m", version="1", digest="sha256:0", labels='["a"]', top_k=None,
    source="zip", key=None, fingerprint="f", per_chunk=10, total=20, done=10, failed=1, bytes=100, claimed=2, written=1,
    created=1.5, started=None, finished=None, error=None,
)  # fmt: skip


def test_of_coverage_it_says_what_is_not_known_too() -> None:
    assert shown(HALF_DONE)["coverage"] is None
    asked = replace(HALF_DONE, threshold=0.4, coverage='{"asked":0.95,"images":300}')
    assert shown(asked)["coverage"] == {
        "asked": 0.95,
        "measured": None,
        "mean_size": None,
        "split": None,
        "images": 300,
    }


def test_times_are_in_utc_with_milliseconds() -> None:
    assert (shown(HALF_DONE)["created_at"], shown(HALF_DONE)["finished_at"]) == ("1970-01-01T00:00:01.500+00:00", None)


def test_what_is_left_takes_as_long_for_each_image_as_what_is_done_took() -> None:
    assert shown(replace(HALF_DONE, started=time.time() - 60))["eta_seconds"] == pytest.approx(60, abs=5)


def test_no_less_than_no_time_is_left_where_the_clock_was_set_back() -> None:
    assert shown(replace(HALF_DONE, started=time.time() + 3600))["eta_seconds"] == 0


def test_before_the_scoring_has_begun_nobody_knows_how_long_it_takes() -> None:
    assert shown(HALF_DONE)["eta_seconds"] is None


def test_a_batch_that_failed_before_it_was_read_has_made_no_progress() -> None:
    assert shown(replace(HALF_DONE, status="failed", total=None, done=0))["progress"] == 0
    assert shown(HALF_DONE)["progress"] == 0.5
