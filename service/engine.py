"""A batch of rows → probabilities, on the session that `providers` opened, by a thread of its own.

A batch that fails raises `InferenceFailed`, `OutOfMemory` when the device has no room for it, or `DeviceLost`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from service.binding import BoundBatch
from service.cores import usable_cores
from service.cuda import is_out_of_memory
from service.errors import DeviceLost, InferenceFailed, OutOfMemory, StartupError
from service.metadata import INPUT, OUTPUT, Precision
from service.providers import PROVIDERS, open_session
from service.types import Probabilities, Rows

MEASUREMENTS, MEASURED_S = 3, 0.02  # of each batch size, at least so many and so long; the quickest counts
BATCH_S = 0.0002  # that forming a batch and answering its requests costs beside the inference
LEAST = 16  # rows that a batch may always have (on a GPU 8): few enough to be quick, and measurements err
WORTHWHILE = 0.03  # of an image's time: what a larger batch must save, since whoever is in it waits longer
PATIENCE = 2  # batch sizes in a row that save nothing, before larger ones are not tried any more
LONGEST_S = 0.15  # of a batch larger than LEAST: whoever is in it waits as long, and so does the start, which tries it
INLINE_S = 0.004  # a shorter inference runs on the event loop: to a thread and back would cost more than the waiting
BACKGROUND_NICE = 10  # more than requests: a tenth of a core that they want whole, and all of one that they leave
logger = logging.getLogger(__name__)


def background_thread(threads_per_inference: int) -> ThreadPoolExecutor | None:
    """A thread for work that can wait; None where the system can't be told that it can.

    Only Linux gives each thread a priority of its own (nice(2)), and an inference on several threads would run
    on those that requests use. Requests then take turns with such work instead of running over it.
    """
    if sys.platform != "linux" or threads_per_inference > 1:
        return None
    return ThreadPoolExecutor(1, thread_name_prefix="background", initializer=os.nice, initargs=(BACKGROUND_NICE,))


class Engine:
    """One model on one device, with a thread of its own: ONNX Runtime lets go of the GIL, so the event loop goes on."""

    def __init__(
        self,
        files: Mapping[Precision, Path],
        *,
        device: str,
        precision: Precision | None = None,
        classes: int,
        height: int,
        width: int,
        max_batch_size: int | None = None,
        threads: int,
        number: int = 0,
    ) -> None:
        """`precision` is the file to run; None leaves the choice to the provider's row in `PROVIDERS`.

        `number` tells the worker processes apart, from 0 on: they take the GPUs in turn. Without `max_batch_size`,
        `warm_up` finds the one with the most images per second.
        """
        self.device, self.precision, self._session, self._gpu = open_session(files, device, precision, threads, number)
        self._provider = PROVIDERS[self.device]
        self._row_shape, self._classes = (height, width, 3), classes
        self._check_signature()
        self.max_batch_size = max_batch_size or self._provider.largest
        self._batch_sizes, self._choose_size = self._provider.batch_sizes(self.max_batch_size), not max_batch_size
        self._bound: dict[int, BoundBatch] = {}
        self._inline_rows = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self.background = None if self._provider.memory else background_thread(threads or usable_cores())
        self.lost = False  # the device has failed for good: only a new process gets it back

    @property
    def padded_sizes(self) -> tuple[int, ...]:
        """The only batch sizes that run as they are, ascending; others are padded. Empty where every size does."""
        return self._batch_sizes if self._provider.memory else ()

    @property
    def provider(self) -> str:
        """The execution provider that the session says it uses."""
        return str(self._session.get_providers()[0])

    def warm_up(self) -> None:
        """Run the batch sizes that requests will meet, so that none of them pays for the first time.

        On the way they are measured, and where the settings demand no size, the largest worthwhile one is found. On the
        CPU, where a size needs no preparation, those below `LEAST` are left out from the first that is too slow for the
        event loop on: nobody asks how long they take.
        """
        always = [size for size in self._batch_sizes if size <= LEAST or not self._choose_size]
        seconds = 0.0
        for size in always:
            if self._provider.memory or seconds < INLINE_S or size >= LEAST:
                seconds = self._measure(size, math.inf)
        if self._choose_size:
            self.max_batch_size = self._largest_worthwhile(always[-1], seconds, self._batch_sizes[len(always) :])
            self._batch_sizes = tuple(size for size in self._batch_sizes if size <= self.max_batch_size)
            self._bound = {size: bound for size, bound in self._bound.items() if size <= self.max_batch_size}

    def _largest_worthwhile(self, size: int, seconds: float, larger: Sequence[int]) -> int:
        """`size`, which takes so long, or the one of the `larger` sizes at which batches should end.

        Beyond some size an image takes longer again, since a batch does not fit the processor's caches any more, or
        the batch as a whole takes too long.
        """
        best, seconds_per_row, in_vain = size, (seconds + BATCH_S) / size, 0
        for size in larger:
            if in_vain == PATIENCE or size * seconds_per_row > LONGEST_S:
                break
            worthwhile = size * seconds_per_row * (1 - WORTHWHILE) - BATCH_S
            seconds = self._measure(size, worthwhile)
            if seconds < worthwhile:
                best, seconds_per_row, in_vain = size, (seconds + BATCH_S) / size, 0
            else:
                in_vain += 1
        return best

    def _measure(self, size: int, worthwhile: float) -> float:
        """`_time` of so many rows; from now on they run on the event loop, if they are quick and may."""
        seconds = self._time(np.zeros((size, *self._row_shape), np.uint8), worthwhile)
        if not self._provider.memory and seconds < INLINE_S:
            self._inline_rows = size
        return seconds

    def _time(self, rows: Rows, worthwhile: float) -> float:
        """Seconds that the inference of `rows` takes when nothing disturbs it and it is not the first of its size.

        What is not below `worthwhile` then needs no closer look: large batches take most of the time of a start.
        """
        times: list[float] = []
        while (len(times) < MEASUREMENTS or sum(times) < MEASURED_S) and (len(times) < 2 or min(times) < worthwhile):
            began = time.perf_counter()
            self.infer(rows)
            times.append(time.perf_counter() - began)
        return min(times)

    async def run(self, rows: Rows) -> Probabilities:
        """`infer`: at once where that is quick, else on the engine's thread."""
        if len(rows) <= self._inline_rows:
            return self._infer(rows)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._infer, rows)

    async def run_in_background(self, rows: Rows) -> Probabilities:
        """`infer`, on what requests leave of the processor; only where there is a `background`."""
        return await asyncio.get_running_loop().run_in_executor(self.background, self._infer, rows)

    def close(self) -> None:
        """Let the threads end; a batch that runs is finished first, but not waited for."""
        for thread in filter(None, (self._thread, self.background)):
            thread.shutdown(wait=False)

    def infer(self, rows: Rows) -> Probabilities:
        """uint8 (N, H, W, 3) → float32 (N, classes), N ≤ max_batch_size; raises as above.

        A device is only ever used from the engine's thread: ONNX Runtime keeps CUDA's handles and graphs per thread,
        and what is warm on one is cold on another.
        """
        if self._provider.memory:
            return self._thread.submit(self._infer, rows).result()
        return self._infer(rows)

    def _infer(self, rows: Rows) -> Probabilities:
        if self.lost:
            raise DeviceLost
        try:
            probabilities = self._run(rows)
        except Exception as exc:  # onnxruntime's exceptions have no common ancestor but this
            logger.exception("inference failed", extra={"rows": len(rows)})
            if is_out_of_memory(exc):
                raise OutOfMemory("The device has no memory for this request; try again in a moment.") from exc
            self.lost = self._device_is_lost()
            if self.lost:
                raise DeviceLost from exc
            raise InferenceFailed(
                "The model failed on this request; try again, and tell the operator the request id if it repeats."
            ) from exc
        if len(probabilities) != len(rows) or not math.isfinite(probabilities.sum()):
            logger.error(
                "the model returned %d rows for %d, or values that are no numbers", len(probabilities), len(rows)
            )
            raise InferenceFailed("The model gave no valid probabilities for this request.")
        return probabilities

    def _run(self, rows: Rows) -> Probabilities:
        if self._provider.memory:
            size = next(size for size in self._batch_sizes if size >= len(rows))
            if size not in self._bound:
                self._bound[size] = BoundBatch(self._session, self._provider.memory, self._row_shape, size, self._gpu)
            return self._bound[size].run(rows)
        probabilities: Probabilities = self._session.run([OUTPUT], {INPUT: rows})[0]
        return probabilities

    def _device_is_lost(self) -> bool:
        """Whether not even one black image can be inferred any more: CUDA's errors stick to the process."""
        try:
            self._run(np.zeros((1, *self._row_shape), np.uint8))
        except Exception:
            logger.critical("the device has failed for good", exc_info=True)
            return True
        return False

    def _check_signature(self) -> None:
        """The graph must take and give what its metadata says."""
        found = [(i.name, i.type, i.shape[1:]) for i in self._session.get_inputs()]
        if found != [(INPUT, "tensor(uint8)", list(self._row_shape))]:
            raise StartupError(
                f"The model's input is {found}, not {INPUT} uint8 (N, *{self._row_shape}); export it again."
            )
        found = [(o.name, o.type, o.shape[1:]) for o in self._session.get_outputs()]
        if found != [(OUTPUT, "tensor(float)", [self._classes])]:
            raise StartupError(
                f"The model's output is {found}, not {OUTPUT} float32 (N, {self._classes}); export it again."
            )
