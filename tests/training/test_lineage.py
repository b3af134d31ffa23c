"""Where a network comes from, in words; the whole card is in test_export."""

from __future__ import annotations

from service.metadata import Provenance
from training.lineage import command, plain, teachers


def provenance(**training: str) -> Provenance:
    config = {"seed": 3}
    return Provenance(
        dataset="", recipe="fast", config=config, epochs=1, training=training, export={}, created_at="2026-01-01"
    )


def test_the_command_is_the_one_that_was_recorded() -> None:
    assert command(provenance(command="convoy-train train fast --epochs 2")) == "convoy-train train fast --epochs 2"


def test_without_one_it_is_the_recipes() -> None:
    assert command(provenance()) == "convoy-train train fast --seed 3"


def test_a_network_without_teachers_says_nothing_of_any() -> None:
    assert teachers((), {}, 1) == []


def test_lists_are_written_as_lists() -> None:
    assert (plain([1, 2]), plain(0.5)) == ("1, 2", "0.5")
