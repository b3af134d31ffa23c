"""How a run of `convoy score` ends: with its output in place, an account of it, and an exit status."""

from __future__ import annotations

from service.errors import StartupError
from service.jobs.ledger import Ledger
from service.jobs.results import Encoder
from service.jobs.tally import Tally
from service.streams import say, tell

INTERRUPTED = 130


def account(images: int, seconds: float, rows: int, failed: int) -> str:
    """What this run did, and what became of all rows of the output, those of earlier runs among them."""
    in_all = "" if images == rows else "in all "
    where = ", see `error` in the output" if failed else ""
    return (
        f"{images:,} images in {seconds:.1f} s: {images / seconds:,.0f} images/s; "
        f"{in_all}{rows - failed:,} scored, {failed:,} failed{where}"
    )


def finish(ledger: Ledger, encoder: Encoder) -> None:
    """Make the output; raises `StartupError` where nothing is in it: an earlier one stays as it is."""
    if not ledger.rows:
        raise StartupError("There was nothing to score: no image is at the paths; name others.")
    ledger.finish(encoder)


def tell_all(told: str, summary: Tally | None, rows: int, failed: int) -> int:
    """Exit status 0; raises `StartupError` where the output has no prediction: whoever goes on with it is to know."""
    tell(told)
    if summary:
        say(summary.text())
    if failed == rows:
        raise StartupError("Nothing could be scored: each row of the output says in its `error` why.")
    return 0


def interrupted(ledger: Ledger) -> int:
    """The exit status of a run that was told to stop."""
    tell(f"Interrupted after {ledger.rows:,} images; the same command goes on from there.")
    return INTERRUPTED
