"""The same network in PyTorch, on the same GPU, in the same run: eager, compiled, and compiled with CUDA graphs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from service.metadata import ModelMetadata, Precision
from tests.gpu.report import Row, at_most
from tests.gpu.speed import rate, sizes
from tests.gpu.steps import Skip
from tests.gpu.subject import Context, generated, model_folder, session, timed
from training.calibrate import Calibrator
from training.checkpoint import network_of
from training.errors import CheckpointError
from training.exported import load_exported
from training.onnx_graph import InferenceGraph

SAME = 5e-3  # of a probability, between two ways to compute in fp16


def network(context: Context, dtype: torch.dtype) -> InferenceGraph:
    """What the model was exported from, uint8 (N, H, W, 3) → probabilities; raises `Skip` for one from elsewhere."""
    folder = model_folder(context)
    try:
        trained = network_of(load_exported(folder))
    except CheckpointError as exc:
        raise Skip(f"the training package has no network for {context.options.model}: {exc}") from exc
    fitted = ModelMetadata.read(folder).calibration
    temperature = 1.0 if fitted.exponent == 1 else fitted.temperature  # fitted alone, it has stayed in the weights
    return InferenceGraph(trained, Calibrator(temperature, fitted.biases, fitted.exponent), dtype).eval()


def eager(context: Context) -> Iterator[Row]:
    """As written."""
    return _measure(context, None)


def compiled(context: Context) -> Iterator[Row]:
    """torch.compile."""
    return _measure(context, "default")


def graphs(context: Context) -> Iterator[Row]:
    """torch.compile with CUDA graphs."""
    return _measure(context, "reduce-overhead")


@torch.inference_mode()
def _measure(context: Context, mode: str | None) -> Iterator[Row]:
    on_gpu = torch.cuda.is_available()
    if not on_gpu and (mode or context.device == "cuda"):
        raise Skip("torch has no CUDA here")
    device, dtype = ("cuda", torch.float16) if on_gpu else ("cpu", torch.float32)
    graph = network(context, dtype).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = torch.compile(graph, mode=mode, dynamic=False) if mode else graph
    precision: Precision = "fp16" if on_gpu else "fp32"
    expected = session(context, precision, device=None if on_gpu == (context.device == "cuda") else "cpu")
    rows = generated(8)
    ours = expected.run(None, {"image": rows})[0]
    theirs = run(torch.from_numpy(rows).to(device)).cpu().numpy()
    yield at_most(SAME, "largest difference of a probability from ours", float(np.abs(ours - theirs).max()))
    for size in sizes(context):
        images = torch.from_numpy(generated(size)).to(device)

        def call(images: Tensor = images) -> None:
            run(images)
            if on_gpu:
                torch.cuda.synchronize()

        yield rate(f"{size}", size, timed(call, small=context.options.small))
