"""A batch of rows → probabilities: the ONNX Runtime session, on the provider that was asked for and no other.

ONNX Runtime falls back to the CPU silently; here what a session really uses is read back from it. A provider that
can't be had raises `StartupError` where it was demanded; a batch that fails raises `InferenceFailed`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from service.cores import has_int8_dot_product, usable_cores
from service.errors import InferenceFailed, StartupError
from service.metadata import Precision
from service.types import Probabilities, Rows

INPUT, OUTPUT = "image", "probabilities"
CUDA_BATCH_SIZES = (1, 8, 32, 128, 512, 1024)  # cuDNN tunes for each new shape, so there are few
MEASUREMENTS, MEASURED_S = 3, 0.02  # of each batch size, at least so many and so long; the quickest counts
BATCH_S = 0.0002  # that forming a batch and answering its requests costs beside the inference
LEAST = 16  # rows that a batch may always have: few enough to be quick, and measurements err
WORTHWHILE = 0.03  # of an image's time: what a larger batch must save, since whoever is in it waits longer
PATIENCE = 2  # batch sizes in a row that save nothing, before larger ones are not tried any more
INLINE_S = 0.004  # a shorter inference runs on the event loop: to a thread and back would cost more than the waiting
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provider:
    """An execution provider: its options, the files it runs best, and the batch sizes it may see."""

    name: str
    precisions: Callable[[], tuple[Precision, ...]]  # best first; fp32 is always there
    batch_sizes: Callable[[int], tuple[int, ...]]  # max_batch_size → sizes that are warmed, the only ones if it pads
    largest: int  # batch that is tried where none is demanded
    memory: str | None = None  # where batches are padded and bound to buffers of the device; None: any size, as it is
    options: Mapping[str, Any] = field(default_factory=dict)


def _powers_of_two(max_batch_size: int) -> tuple[int, ...]:
    """1, 2, 4 … and the largest: what is warmed where any size may run."""
    return tuple(sorted({*(1 << i for i in range(max_batch_size.bit_length())), max_batch_size}))


def _cuda_buckets(max_batch_size: int) -> tuple[int, ...]:
    return tuple(sorted({*(size for size in CUDA_BATCH_SIZES if size < max_batch_size), max_batch_size}))


PROVIDERS: dict[str, Provider] = {
    "cuda": Provider(
        "CUDAExecutionProvider",
        precisions=lambda: ("fp16", "fp32"),
        batch_sizes=_cuda_buckets,
        largest=CUDA_BATCH_SIZES[-1],
        memory="cuda",
        options={"cudnn_conv_algo_search": "HEURISTIC"},  # EXHAUSTIVE would stall each new shape
    ),
    "cpu": Provider(
        "CPUExecutionProvider",
        precisions=lambda: ("int8", "fp32") if has_int8_dot_product() else ("fp32",),
        batch_sizes=_powers_of_two,
        largest=128,
    ),
}


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
    ) -> None:
        """`precision` is the file to run; None leaves the choice to the provider's row in `PROVIDERS`.

        Without `max_batch_size`, `warm_up` finds the one with the most images per second.
        """
        self.device, self.precision, self._session = _open(files, device, precision, threads)
        self._provider = PROVIDERS[self.device]
        self._row_shape, self._classes = (height, width, 3), classes
        self._check_signature()
        self.max_batch_size = max_batch_size or self._provider.largest
        self._batch_sizes, self._choose_size = self._provider.batch_sizes(self.max_batch_size), not max_batch_size
        self._bound: dict[int, _BoundBatch] = {}
        self._inline_rows = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
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
        """Run every batch size that requests will meet, so that none of them pays for the first time.

        On the way the sizes are measured. Beyond some size an image takes longer again, since a batch does not fit the
        processor's caches any more: that is where batches end unless the settings say otherwise.
        """
        best, seconds_per_row = 0, math.inf
        for place, size in enumerate(self._batch_sizes):
            rows = np.zeros((size, *self._row_shape), np.uint8)
            self.infer(rows)
            seconds = self._time(rows)
            if not self._provider.memory and seconds < INLINE_S:
                self._inline_rows = size
            if size <= LEAST or (seconds + BATCH_S) / size < seconds_per_row * (1 - WORTHWHILE):
                best, seconds_per_row = place, (seconds + BATCH_S) / size
            elif self._choose_size and place - best == PATIENCE:
                break
        if self._choose_size:
            self._batch_sizes = self._batch_sizes[: best + 1]
            self.max_batch_size = self._batch_sizes[-1]
            self._bound = {size: bound for size, bound in self._bound.items() if size in self._batch_sizes}

    def _time(self, rows: Rows) -> float:
        """Seconds that the inference of `rows` takes when nothing disturbs it."""
        times: list[float] = []
        while len(times) < MEASUREMENTS or sum(times) < MEASURED_S:
            began = time.perf_counter()
            self.infer(rows)
            times.append(time.perf_counter() - began)
        return min(times)

    async def run(self, rows: Rows) -> Probabilities:
        """`infer`: at once where that is quick, else on the engine's thread."""
        if len(rows) <= self._inline_rows:
            return self.infer(rows)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.infer, rows)

    def close(self) -> None:
        """Let the thread end; a batch that runs is finished first, but not waited for."""
        self._thread.shutdown(wait=False)

    def infer(self, rows: Rows) -> Probabilities:
        """uint8 (N, H, W, 3) → float32 (N, classes), N ≤ max_batch_size; raises `InferenceFailed`."""
        try:
            probabilities = self._run(rows)
        except Exception as exc:  # onnxruntime's exceptions have no common ancestor but this
            logger.exception("inference failed", extra={"rows": len(rows)})
            self.lost = self.lost or self._device_is_lost()
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
                self._bound[size] = _BoundBatch(
                    self._session, self._provider.memory, (size, *self._row_shape), (size, self._classes)
                )
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


class _BoundBatch:
    """One batch size on a device: buffers there that are filled, run and read again and again."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        memory: str,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
    ) -> None:
        self._session, self._rows = session, np.zeros(input_shape, np.uint8)
        self._input = onnxruntime.OrtValue.ortvalue_from_numpy(self._rows, memory, 0)
        self._output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(output_shape, np.float32, memory, 0)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(INPUT, self._input)
        self._binding.bind_ortvalue_output(OUTPUT, self._output)

    def run(self, rows: Rows) -> Probabilities:
        """The probabilities of `rows`, of which there may be fewer than the batch has room for."""
        self._rows[: len(rows)] = rows  # what is left of earlier batches below them is inferred and thrown away
        self._input.update_inplace(self._rows)
        self._session.run_with_iobinding(self._binding)
        probabilities: Probabilities = self._output.numpy()[: len(rows)].copy()
        return probabilities


def _open(
    files: Mapping[Precision, Path], device: str, precision: Precision | None, threads: int
) -> tuple[str, Precision, onnxruntime.InferenceSession]:
    """The device and precision that were taken and a session on them; `auto` tries every provider and says so."""
    if precision is not None and precision not in files:
        raise StartupError(
            f"--precision {precision} can't be had: the model has {', '.join(files)}; choose one of them."
        )
    for candidate in PROVIDERS if device == "auto" else (device,):
        provider = PROVIDERS[candidate]
        wanted = provider.precisions() if precision is None else (precision,)
        chosen = next(each for each in wanted if each in files)
        if provider.name not in onnxruntime.get_available_providers():
            reason = "this build of ONNX Runtime does not have it"
        elif (session := _session(files[chosen], provider, threads, chosen)) is None:
            reason = "its device, driver or libraries are missing"
        elif (used := session.get_providers()[0]) != provider.name:
            reason = f"ONNX Runtime took {used} in its place"
        else:
            return candidate, chosen, session
        if device != "auto":
            raise StartupError(
                f"--device {device} can't be had: {provider.name}: {reason}; "
                "install what is missing, or use --device auto."
            )
        logger.warning("not on %s: %s; trying the next provider", provider.name, reason)
    raise StartupError("No execution provider of ONNX Runtime works here; install the extra cpu or gpu.")


def _session(
    model_file: Path, provider: Provider, threads: int, precision: Precision
) -> onnxruntime.InferenceSession | None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: what matters of the rest is checked above
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = (threads or usable_cores()) if provider.name == "CPUExecutionProvider" else 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not burn a core
    if precision == "int8":  # exact where the processor lacks int8 dot products: its 16-bit sums would overflow
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(
            str(model_file), options, providers=[(provider.name, dict(provider.options))]
        )
    except Exception as exc:
        if provider.name == "CPUExecutionProvider":
            raise StartupError(f"ONNX Runtime can't open {model_file.name}; export the model again.") from exc
        logger.warning("%s: %s", provider.name, exc)
        return None
