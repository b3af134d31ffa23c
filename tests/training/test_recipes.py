"""Named configurations, and what the command line makes of them."""

from __future__ import annotations

from dataclasses import replace

from training.recipes import RECIPES, with_overrides


def test_the_command_line_changes_what_it_names() -> None:
    fast = RECIPES["fast"]
    assert with_overrides(fast, epochs=None, seed=3, max_steps=None) == replace(fast, seed=3)
    assert with_overrides(fast, epochs=20, seed=None, max_steps=7) == replace(fast, epochs=20, max_steps=7)
