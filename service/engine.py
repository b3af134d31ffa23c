"""A batch of rows → probabilities: the ONNX Runtime session, on the provider that was asked for and no other.

ONNX Runtime falls back to the CPU silently; here what a session really uses is read back from it. A provider that
can't be had raises `StartupError` where it was demanded; a batch that fails raises `InferenceFailed`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from service.cores import usable_cores
from service.errors import InferenceFailed, StartupError
from service.types import Probabilities, Rows

INPUT, OUTPUT = "image", "probabilities"
CUDA_BATCH_SIZES = (1, 8, 32, 128, 512, 1024)  # cuDNN tunes for each new shape, so there are few
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provider:
    """An execution provider, its options, and the batch sizes it may see."""

    name: str
    batch_sizes: Callable[[int], tuple[int, ...]]  # max_batch_size → sizes that are warmed, the only ones if it pads
    pads: bool
    options: Mapping[str, Any] = field(default_factory=dict)


def _powers_of_two(max_batch_size: int) -> tuple[int, ...]:
    """1, 2, 4 … and the largest: what is warmed where any size may run."""
    return tuple(sorted({*(1 << i for i in range(max_batch_size.bit_length())), max_batch_size}))


def _cuda_buckets(max_batch_size: int) -> tuple[int, ...]:
    return tuple(sorted({*(size for size in CUDA_BATCH_SIZES if size < max_batch_size), max_batch_size}))


PROVIDERS: dict[str, Provider] = {
    "cuda": Provider(
        "CUDAExecutionProvider",
        batch_sizes=_cuda_buckets,
        pads=True,
        options={"cudnn_conv_algo_search": "HEURISTIC"},  # EXHAUSTIVE would stall each new shape
    ),
    "cpu": Provider("CPUExecutionProvider", batch_sizes=_powers_of_two, pads=False),
}


class Engine:
    """One model on one device, with a thread of its own: ONNX Runtime lets go of the GIL, so the event loop goes on."""

    def __init__(
        self,
        model_file: Path,
        *,
        device: str,
        classes: int,
        height: int,
        width: int,
        max_batch_size: int,
        threads: int,
    ) -> None:
        self.device, self._session = _open(model_file, device, threads)
        self._provider = PROVIDERS[self.device]
        self._row_shape, self._classes = (height, width, 3), classes
        self.max_batch_size = max_batch_size
        self._batch_sizes = self._provider.batch_sizes(max_batch_size)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._check_signature()

    @property
    def padded_sizes(self) -> tuple[int, ...]:
        """The only batch sizes that run as they are, ascending; others are padded. Empty where every size does."""
        return self._batch_sizes if self._provider.pads else ()

    @property
    def provider(self) -> str:
        """The execution provider that the session says it uses."""
        return str(self._session.get_providers()[0])

    def warm_up(self) -> None:
        """Run every batch size that requests will meet, so that none of them pays for the first time."""
        for size in self._batch_sizes:
            self.infer(np.zeros((size, *self._row_shape), np.uint8))

    async def run(self, rows: Rows) -> Probabilities:
        """`infer`, on the engine's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.infer, rows)

    def close(self) -> None:
        """Let the thread end; a batch that runs is finished first, but not waited for."""
        self._thread.shutdown(wait=False)

    def infer(self, rows: Rows) -> Probabilities:
        """uint8 (N, H, W, 3) → float32 (N, classes), N ≤ max_batch_size; raises `InferenceFailed`."""
        count = len(rows)
        if self._provider.pads:
            size = next(size for size in self._batch_sizes if size >= count)
            rows = (
                np.concatenate([rows, np.zeros((size - count, *self._row_shape), np.uint8)]) if size > count else rows
            )
        try:
            probabilities: Probabilities = self._session.run([OUTPUT], {INPUT: rows})[0]
        except Exception as exc:  # onnxruntime's exceptions have no common ancestor but this
            logger.exception("inference failed", extra={"rows": count})
            raise InferenceFailed(
                "The model failed on this request; try again, and tell the operator the request id if it repeats."
            ) from exc
        if len(probabilities) != len(rows) or not math.isfinite(probabilities.sum()):
            logger.error(
                "the model returned %d rows for %d, or values that are no numbers",
                len(probabilities),
                len(rows),
            )
            raise InferenceFailed("The model gave no valid probabilities for this request.")
        return probabilities[:count]

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


def _open(model_file: Path, device: str, threads: int) -> tuple[str, onnxruntime.InferenceSession]:
    """The device that was taken and a session on it; `auto` tries every provider in order and says so."""
    for candidate in PROVIDERS if device == "auto" else (device,):
        provider = PROVIDERS[candidate]
        if provider.name not in onnxruntime.get_available_providers():
            reason = "this build of ONNX Runtime does not have it"
        elif (session := _session(model_file, provider, threads)) is None:
            reason = "its device, driver or libraries are missing"
        elif (used := session.get_providers()[0]) != provider.name:
            reason = f"ONNX Runtime took {used} in its place"
        else:
            return candidate, session
        if device != "auto":
            raise StartupError(
                f"--device {device} can't be had: {provider.name}: {reason}; "
                "install what is missing, or use --device auto."
            )
        logger.warning("not on %s: %s; trying the next provider", provider.name, reason)
    raise StartupError("No execution provider of ONNX Runtime works here; install the extra cpu or gpu.")


def _session(model_file: Path, provider: Provider, threads: int) -> onnxruntime.InferenceSession | None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: what matters of the rest is checked above
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = (threads or usable_cores()) if provider.name == "CPUExecutionProvider" else 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not burn a core
    try:
        return onnxruntime.InferenceSession(
            str(model_file), options, providers=[(provider.name, dict(provider.options))]
        )
    except Exception as exc:
        if provider.name == "CPUExecutionProvider":
            raise StartupError(f"ONNX Runtime can't open {model_file.name}; export the model again.") from exc
        logger.warning("%s: %s", provider.name, exc)
        return None
