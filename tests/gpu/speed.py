"""Images per second of the model alone, by batch size, under CUDA's options one by one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime

from service.metadata import INPUT, OUTPUT, Precision
from tests.gpu.report import Row
from tests.gpu.steps import Skip
from tests.gpu.subject import Context, Timing, bound, generated, gpu_memory_mib, session, timed

SIZES, SMALL_SIZES = (1, 8, 32, 128, 512, 1024, 4096), (1, 8, 32)
UPLOAD_SIZE = 1024


def fp16(context: Context) -> Iterator[Row]:
    """As the service does it."""
    return _measure(context, "fp16")


def fp16_nhwc(context: Context) -> Iterator[Row]:
    """Channels last."""
    return _measure(context, "fp16", prefer_nhwc="1")


def fp16_graph(context: Context) -> Iterator[Row]:
    """One launch per batch."""
    return _measure(context, "fp16", enable_cuda_graph="1")


def fp16_nhwc_graph(context: Context) -> Iterator[Row]:
    """Both."""
    return _measure(context, "fp16", prefer_nhwc="1", enable_cuda_graph="1")


def fp16_exhaustive(context: Context) -> Iterator[Row]:
    """Every convolution algorithm tried for every shape."""
    return _measure(context, "fp16", cudnn_conv_algo_search="EXHAUSTIVE")


def fp16_nhwc_exhaustive(context: Context) -> Iterator[Row]:
    """The same, channels last."""
    return _measure(context, "fp16", prefer_nhwc="1", cudnn_conv_algo_search="EXHAUSTIVE")


def fp16_power_of_two(context: Context) -> Iterator[Row]:
    """ONNX Runtime's own way to let memory grow."""
    return _measure(context, "fp16", arena_extend_strategy="kNextPowerOfTwo")


def fp32(context: Context) -> Iterator[Row]:
    """Exact; on the CPU too."""
    return _measure(context, "fp32")


def fp32_tf32(context: Context) -> Iterator[Row]:
    """With fp16's fraction."""
    return _measure(context, "fp32", use_tf32="1")


def _measure(context: Context, precision: Precision, **changes: str) -> Iterator[Row]:
    if context.device == "cpu" and (precision, changes) != ("fp32", {}):
        raise Skip(context.without_cuda or "")
    before = gpu_memory_mib()
    opened = session(context, precision, changes)
    for size in sizes(context):
        batch, rows = bound(context, opened, size), generated(size)
        device = timed(batch.compute, small=context.options.small)
        whole = timed(lambda batch=batch, rows=rows: batch.run(rows), small=context.options.small)  # type: ignore[misc]
        yield rate(f"{size}", size, device)
        yield rate(f"{size} with upload and download", size, whole)
    if before is not None and (after := gpu_memory_mib()) is not None:
        yield Row("memory", after - before, "MiB", note="of all batch sizes together")


def rate(name: str, size: int, timing: Timing) -> Row:
    """Images per second as a row."""
    return Row(name, size / timing.median_s, "images/s", spread=timing.spread, note=f"{timing.median_s * 1e6:,.0f} µs")


def sizes(context: Context) -> tuple[int, ...]:
    """Batch sizes that are measured."""
    return SMALL_SIZES if context.device == "cpu" or context.options.small else SIZES


def upload(context: Context) -> Iterator[Row]:
    """Ways to bring a batch to the device and its answer back."""
    context.need_cuda()
    opened, rows = session(context, "fp16"), generated(UPLOAD_SIZE)
    batch = bound(context, opened, UPLOAD_SIZE)
    yield rate("bound buffers, as the service does it", UPLOAD_SIZE, timed(lambda: batch.run(rows)))
    yield rate("the device's part of it", UPLOAD_SIZE, timed(batch.compute))
    yield rate("run() with arrays", UPLOAD_SIZE, timed(lambda: opened.run([OUTPUT], {INPUT: rows})))
    binding = opened.io_binding()
    binding.bind_output(OUTPUT, "cpu")

    def bound_on_cpu() -> None:
        binding.bind_cpu_input(INPUT, rows)
        opened.run_with_iobinding(binding)
        binding.copy_outputs_to_cpu()

    yield rate("input bound on the CPU", UPLOAD_SIZE, timed(bound_on_cpu))
    yield from _pinned(rows)


def _pinned(rows: np.ndarray) -> Iterator[Row]:
    """How much of an upload is that the driver copies pageable memory twice."""
    value = onnxruntime.OrtValue.ortvalue_from_numpy(rows, "cuda", 0)
    yield rate("upload alone", len(rows), timed(lambda: value.update_inplace(rows)))
    try:
        import torch
    except ImportError:
        yield Row("upload alone from pinned memory", "", note="skipped: torch is not there to pin it")
        return
    if not torch.cuda.is_available():
        yield Row("upload alone from pinned memory", "", note="skipped: torch has no CUDA to pin it with")
        return
    pinned = torch.from_numpy(rows).pin_memory().numpy()
    yield rate("upload alone from pinned memory", len(rows), timed(lambda: value.update_inplace(pinned)))
