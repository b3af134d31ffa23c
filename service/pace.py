"""How long batches took lately, and how wrong that was → how long rows that wait will take."""

from __future__ import annotations

import math
from dataclasses import dataclass

MOST_DELAY = 4.0  # one request that was forgotten for a minute must not close the door to all others
AGREEING = 3  # batches in a row that took longer than that: the engine is slower, it did not merely stand still once
DECAY = 0.95  # of a batch's weight with each later one: about the last twenty count
SURE = 0.75  # of the time that is left: what a wait may be foreseen to be, since some wait longer


@dataclass(slots=True)
class Pace:
    """seconds ≈ per batch + per row · rows: least squares over the last batches, the latest weighing most.

    While only one size of batch has been seen the cost counts as the batch's, not the rows': the guess for larger ones
    is then too low, which their own time corrects, where one too high would refuse them and never learn better.
    """

    _weight: float = 0.0
    _rows: float = 0.0
    _seconds: float = 0.0
    _rows_rows: float = 0.0
    _rows_seconds: float = 0.0
    _per_batch: float = 0.0
    _per_row: float = 0.0
    _delay: float = 1.0  # how many times longer than foreseen requests have waited lately
    _slow: int = 0  # batches in a row that took longer than any should

    def observe(self, rows: int, seconds: float) -> None:
        """A batch of so many rows took so long."""
        seconds = self._credible(rows, seconds)
        self._weight = self._weight * DECAY + 1
        self._rows = self._rows * DECAY + rows
        self._seconds = self._seconds * DECAY + seconds
        self._rows_rows = self._rows_rows * DECAY + rows * rows
        self._rows_seconds = self._rows_seconds * DECAY + rows * seconds
        mean_rows, mean_seconds = self._rows / self._weight, self._seconds / self._weight
        variance = self._rows_rows / self._weight - mean_rows**2
        covariance = self._rows_seconds / self._weight - mean_rows * mean_seconds
        per_row = covariance / variance if variance > 1e-6 * mean_rows**2 else 0.0
        self._per_row = min(max(per_row, 0.0), mean_seconds / mean_rows)  # neither cost can be negative
        self._per_batch = mean_seconds - self._per_row * mean_rows

    def _credible(self, rows: int, seconds: float) -> float:
        """What of so long a time counts: a process that was stopped for a minute is no slower afterwards.

        Of what the mean batch takes, not of what is foreseen: that is too little where only small ones were seen.
        """
        if not self._seconds:
            return seconds
        most = MOST_DELAY * self._seconds / self._weight * max(1.0, rows * self._weight / self._rows)
        self._slow = self._slow + 1 if seconds > most else 0
        return seconds if self._slow >= AGREEING else min(seconds, most)

    def judge(self, foreseen: float, waited: float) -> None:
        """A request was to wait so long, by `seconds`, and waited so long: there is more to do than inference alone."""
        if foreseen > 0:
            delay = max(self._delay, 1.0) * waited / foreseen  # against what was foreseen without it
            self._delay += (1 - DECAY) * (min(delay, MOST_DELAY) - self._delay)

    def seconds(self, rows: int, max_batch_size: int) -> float:
        """What `rows` rows will take in batches of at most `max_batch_size`; 0 before the first batch."""
        return (self._per_batch * math.ceil(rows / max_batch_size) + self._per_row * rows) * max(self._delay, 1.0)
