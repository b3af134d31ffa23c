"""Measured batches → predicted seconds."""

from __future__ import annotations

import pytest

from service.pace import Pace


def test_nothing_is_known_before_the_first_batch() -> None:
    assert Pace().seconds(100, 10) == 0


def test_no_rows_take_no_time() -> None:
    pace = Pace()
    pace.observe(8, 1.0)
    assert pace.seconds(0, 10) == 0


def test_both_costs_are_found_from_batches_of_different_sizes() -> None:
    pace = Pace()
    for rows in (1, 16, 4, 32, 8):
        pace.observe(rows, 0.002 + 0.0001 * rows)
    assert pace.seconds(1, 32) == pytest.approx(0.0021)
    assert pace.seconds(64, 32) == pytest.approx(2 * 0.002 + 64 * 0.0001)


def test_equal_batches_are_taken_for_fixed_costs() -> None:
    """Too low a guess corrects itself, too high a one refuses work and stays."""
    pace = Pace()
    pace.observe(1, 0.001)
    pace.observe(1, 0.001)
    assert pace.seconds(100, 128) == pytest.approx(0.001)
    assert pace.seconds(256, 128) == pytest.approx(0.002)


@pytest.mark.parametrize("rows", range(1, 33))
def test_rounding_does_not_make_equal_batches_differ(rows: int) -> None:
    pace = Pace()
    for number in range(100):
        pace.observe(rows, 0.001 * (1 + number % 2))
        assert pace.seconds(10 * rows, 10 * rows) == pytest.approx(pace.seconds(rows, rows))


def test_no_cost_is_negative_however_noisy_the_batches() -> None:
    falling = Pace()
    for rows, seconds in ((1, 0.010), (10, 0.001)):
        falling.observe(rows, seconds)
    assert falling.seconds(1, 10) == pytest.approx(falling.seconds(10, 10))
    steep = Pace()
    for rows, seconds in ((1, 0.0), (10, 0.1)):
        steep.observe(rows, seconds)
    assert 0 <= steep.seconds(1, 10) <= steep.seconds(10, 10) / 9
    assert steep.seconds(10, 1) == pytest.approx(steep.seconds(10, 10))  # ten batches, or one


def test_the_latest_batches_weigh_most() -> None:
    pace = Pace()
    for _ in range(100):
        pace.observe(10, 0.001)
    for _ in range(100):
        pace.observe(10, 0.009)
    assert pace.seconds(10, 10) == pytest.approx(0.009, rel=0.01)


def test_one_batch_that_stood_still_is_not_the_engines_pace() -> None:
    pace = Pace()
    for _ in range(50):
        pace.observe(4, 0.010)
    pace.observe(4, 120.0)  # the process was stopped for two minutes
    assert pace.seconds(4, 32) < 0.012


def test_an_engine_that_is_much_slower_from_now_on_is_known_within_a_few_batches() -> None:
    pace = Pace()
    for _ in range(50):
        pace.observe(4, 0.010)
    for _ in range(6):
        pace.observe(4, 1.0)
    assert pace.seconds(4, 32) > 0.150


def test_the_third_long_batch_in_a_row_counts_in_full() -> None:
    pace = Pace()
    for seconds in (*[0.010] * 50, 1.0, 1.0, 1.0):
        pace.observe(4, seconds)
    assert pace.seconds(4, 32) > 0.050


def test_one_that_stands_still_now_and_then_is_not_slower() -> None:
    pace = Pace()
    for _ in range(20):
        for seconds in (*[0.010] * 10, 60.0, 60.0):
            pace.observe(4, seconds)
    assert pace.seconds(4, 32) < 0.030


def test_a_large_batch_may_take_as_much_longer_as_it_has_more_rows() -> None:
    pace = Pace()
    for _ in range(50):
        pace.observe(1, 0.010)
    pace.observe(32, 0.320)
    assert pace.seconds(32, 32) == pytest.approx(0.320)


def test_a_small_batch_may_take_as_long_as_a_large_one() -> None:
    pace = Pace()
    for _ in range(50):
        pace.observe(32, 0.100)
    pace.observe(1, 0.100)
    assert pace.seconds(1, 32) == pytest.approx(0.100)


def test_what_takes_longer_than_foreseen_is_foreseen_longer() -> None:
    pace = Pace()
    pace.observe(8, 1.0)
    assert pace.seconds(16, 8) == 2.0
    for _ in range(200):
        pace.judge(pace.seconds(16, 8), 3.0)
    assert pace.seconds(16, 8) == pytest.approx(3.0, rel=1e-3)


def test_what_is_quicker_than_foreseen_is_not_counted_on() -> None:
    pace = Pace()
    pace.observe(8, 1.0)
    for _ in range(200):
        pace.judge(pace.seconds(8, 8), 0.1)
    assert pace.seconds(8, 8) == 1.0
    for _ in range(200):
        pace.judge(pace.seconds(8, 8), 3.0)
    assert pace.seconds(8, 8) == pytest.approx(3.0, rel=1e-3)  # known as soon as if nothing had been quick


def test_one_request_that_waited_for_ages_is_not_all_there_is() -> None:
    pace = Pace()
    pace.observe(8, 1.0)
    pace.judge(1.0, 3600.0)
    assert pace.seconds(8, 8) < 1.2
    pace.judge(0.0, 1.0)  # nothing was known
