"""Model files and a device → a session that runs on it: on the execution provider that was asked for and no other.

ONNX Runtime falls back to the CPU silently; here it may not, and what a session really uses is read back from it. A
provider that can't be had raises `StartupError` where it was demanded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import onnxruntime

from service import cuda
from service.cores import has_int8_dot_product, usable_cores
from service.errors import StartupError
from service.metadata import Precision

NOT_BUILT = "this build of ONNX Runtime does not have it"
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
    missing: Callable[[], str | None] = lambda: None  # what it lacks on this machine, before it is tried
    devices: Callable[[], int] = lambda: 1  # how many of its kind there are, once nothing is missing


class _Unavailable(Exception):
    """There can be no session on a provider; the text says why."""


class _NotBuilt(_Unavailable):
    """This build of ONNX Runtime does not have it, as was chosen when it was installed."""


class Opened(NamedTuple):
    """A session and what it is."""

    device: str
    precision: Precision
    session: onnxruntime.InferenceSession
    gpu: int = 0  # which of the devices of its kind


def _powers_of_two(max_batch_size: int) -> tuple[int, ...]:
    """1, 2, 4 … and the largest: what is warmed where any size may run."""
    return tuple(sorted({*(1 << i for i in range(max_batch_size.bit_length())), max_batch_size}))


def _cuda_buckets(max_batch_size: int) -> tuple[int, ...]:
    return tuple(sorted({*(size for size in cuda.BATCH_SIZES if size < max_batch_size), max_batch_size}))


PROVIDERS: dict[str, Provider] = {
    "cuda": Provider(
        "CUDAExecutionProvider",
        precisions=lambda: ("fp16", "fp32"),
        batch_sizes=_cuda_buckets,
        largest=cuda.BATCH_SIZES[-1],
        memory="cuda",
        options=cuda.OPTIONS,
        missing=cuda.missing,
        devices=cuda.devices,
    ),
    "cpu": Provider(
        "CPUExecutionProvider",
        precisions=lambda: ("int8", "fp32") if has_int8_dot_product() else ("fp32",),
        batch_sizes=_powers_of_two,
        largest=128,
    ),
}


def open_session(
    files: Mapping[Precision, Path], device: str, precision: Precision | None, threads: int, number: int = 0
) -> Opened:
    """A session on `device`; `auto` tries every provider and says which it had to pass over.

    `number` tells the worker processes apart, from 0 on: they take the GPUs in turn.
    """
    if precision is not None and precision not in files:
        raise StartupError(
            f"--precision {precision} can't be had: the model has {', '.join(files)}; choose one of them."
        )
    absent: tuple[str, ...] = ()
    for candidate in PROVIDERS if device == "auto" else (device,):
        provider = PROVIDERS[candidate]
        wanted = provider.precisions() if precision is None else (precision,)
        chosen = next(each for each in wanted if each in files)
        try:
            session, gpu = _attempt(provider, files[chosen], threads, number)
        except _Unavailable as exc:
            if device != "auto":
                raise StartupError(
                    f"--device {device} can't be had: {provider.name}: {exc}; "
                    "install what is missing, or use --device auto."
                ) from exc
            if isinstance(exc, _NotBuilt):
                absent += (candidate,)
            else:
                logger.warning("%s can't be used: %s; trying the next", provider.name, exc)
            continue
        if absent and number == 0:  # the others have the same to say
            _say_absent(absent, candidate)
        return Opened(candidate, chosen, session, gpu)
    raise StartupError("No execution provider of ONNX Runtime works here; install the extra cpu or gpu.")


@cache  # once, however many models there are
def _say_absent(absent: tuple[str, ...], device: str) -> None:
    """Nothing is broken: it is what was installed."""
    logger.info("this build of ONNX Runtime has no %s: serving on the %s", ", ".join(absent).upper(), device.upper())


def _attempt(
    provider: Provider, model_file: Path, threads: int, number: int
) -> tuple[onnxruntime.InferenceSession, int]:
    """A session and the number of its device; raises `_Unavailable`."""
    if provider.name not in onnxruntime.get_available_providers():
        raise _NotBuilt(NOT_BUILT)
    if missing := provider.missing():
        raise _Unavailable(missing)
    if gpu := number % provider.devices():
        provider = replace(provider, options={**provider.options, "device_id": str(gpu)})
    session = _session(model_file, provider, threads)
    if (used := session.get_providers()[0]) != provider.name:
        raise _Unavailable(f"ONNX Runtime took {used} in its place")
    return session, gpu


def _session(model_file: Path, provider: Provider, threads: int) -> onnxruntime.InferenceSession:
    options, on_cpu = onnxruntime.SessionOptions(), provider.name == "CPUExecutionProvider"
    options.log_severity_level = 3  # errors only: what matters of the rest is checked above
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = (threads or usable_cores()) if on_cpu else 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not burn a core
    if not on_cpu:  # not one node may land on the CPU
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    elif not has_int8_dot_product():  # whatever the precision: fp32 is also what a network of integers is imported as
        # Without those instructions sums of 16 bits would overflow. With them nothing does, and asking halves the speed
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(
            str(model_file), options, providers=[(provider.name, dict(provider.options))], enable_fallback=False
        )
    except Exception as exc:  # onnxruntime's exceptions have no common ancestor but this
        if on_cpu:
            raise StartupError(f"ONNX Runtime can't open {model_file.name}; export the model again.") from exc
        logger.warning("%s: %s", provider.name, exc)
        raise _Unavailable("it does not take the whole model; the log says why") from exc
