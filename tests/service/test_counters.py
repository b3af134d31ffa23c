"""Counts shared by processes."""

from __future__ import annotations

import mmap

import pytest

from service.counters import ENTRIES, KEY_BYTES, STRIP_BYTES, Counters


@pytest.fixture
def memory() -> mmap.mmap:
    return mmap.mmap(-1, 3 * STRIP_BYTES)


def test_a_count_is_the_sum_over_all_processes(memory: mmap.mmap) -> None:
    first, second = Counters(memory, 0), Counters(memory, 2)
    first.cell("a").add()
    second.cell("b").add(5)
    second.cell("a").add(2)
    assert first.totals() == second.totals() == {"a": 3, "b": 5}


def test_who_takes_a_dead_workers_place_goes_on_counting(memory: mmap.mmap) -> None:
    dead = Counters(memory, 1)
    dead.cell("a").add(4)
    dead.cell("b").add(1)
    successor = Counters(memory, 1)
    successor.cell("b").add(1)
    successor.cell("c").add(7)
    assert Counters(memory, 0).totals() == {"a": 4, "b": 2, "c": 7}


def test_a_gauge_is_replaced() -> None:
    counters = Counters.alone()
    counters.cell("a").set(9)
    counters.cell("a").set(3)
    assert counters.totals() == {"a": 3}


def test_a_strip_that_is_full_says_so_and_spoils_nothing(memory: mmap.mmap) -> None:
    counters = Counters(memory, 0)
    for i in range(ENTRIES):
        counters.cell(f"key {i}").add(i)
    with pytest.raises(ValueError, match="no room"):
        counters.cell("one more")
    with pytest.raises(ValueError, match="too long"):
        Counters(memory, 1).cell("x" * (KEY_BYTES + 1))
    assert Counters(memory, 1).totals()[f"key {ENTRIES - 1}"] == ENTRIES - 1


def test_the_longest_key_comes_back_whole() -> None:
    counters = Counters.alone()
    counters.cell("é" * (KEY_BYTES // 2)).add()
    assert list(counters.totals()) == ["é" * (KEY_BYTES // 2)]
