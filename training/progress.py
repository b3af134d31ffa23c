"""How a run shows itself: a bar with the time left in a terminal, one plain line per epoch everywhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from tqdm import tqdm

from training.checkpoint import EpochRecord

SHOWN_EVERY_S = 0.5


class Progress:
    """Follows one run; quiet about steps where there is no terminal."""

    def __init__(self, steps_per_epoch: int, total_steps: int, first_step: int) -> None:
        self._epochs = math.ceil(total_steps / steps_per_epoch)
        self._shown = 0.0  # when the loss was, on the monotonic clock
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._bar = tqdm(
            total=total_steps,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            leave=False,
            disable=None,
        )

    def step(self, step: int, mean_loss: Callable[[], float], images: int) -> None:
        """After each optimiser step of so many images; `mean_loss` is asked only when it is shown."""
        if self._bar.disable:
            return
        if (now := time.monotonic()) - self._shown > SHOWN_EVERY_S:
            self._shown = now
            speed = images * (self._bar.format_dict["rate"] or 0)
            self._bar.set_postfix_str(f"loss {mean_loss():.3f}, {speed:,.0f} images/s", refresh=False)
        self._bar.set_description(f"epoch {(step - 1) // self._steps_per_epoch + 1}/{self._epochs}", refresh=False)
        self._bar.update()

    def epoch(self, record: EpochRecord, step: int, seconds_per_step: float) -> None:
        """After each epoch."""
        left = _duration(seconds_per_step * (self._total_steps - step))
        accuracy = record.validation_accuracy
        line = (
            f"epoch {record.epoch:3d}/{self._epochs}  loss {record.loss:.4f}  "
            + (f"validation {accuracy:.2%}  " if accuracy is not None else "")
            + f"{record.images_per_second:,.0f} images/s  {left} left"
        )
        with suppress(OSError):  # of a reader or a terminal that has gone: the run goes on
            self._bar.write(line, file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        """Take the bar off the terminal."""
        self._bar.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
