"""The same network in PyTorch, on the same GPU, in the same run: eager, compiled, and compiled with CUDA graphs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from service.metadata import Precision
from tests.gpu.report import Row, at_most
from tests.gpu.speed import rate, sizes
from tests.gpu.steps import Skip
from tests.gpu.subject import Context, generated, model_file, session, timed

SAME = 5e-3  # of a probability, between two ways to compute in fp16


class Network(nn.Module):
    """The layers of an exported file: uint8 (N, H, W, 3) → probabilities, as its graph has them."""

    def __init__(self, file: Path, dtype: torch.dtype) -> None:
        super().__init__()
        graph = onnx.load(file).graph
        weights = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
        self.layers = nn.Sequential(*filter(None, (_layer(node, weights) for node in graph.node))).to(dtype)
        self._dtype = dtype

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities; a permuted image is channels last."""
        logits: Tensor = self.layers(image.permute(0, 3, 1, 2).to(self._dtype))
        return logits.float().softmax(1)


def _layer(node: onnx.NodeProto, weights: dict[str, Tensor]) -> nn.Module | None:
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Conv":
        weight, bias = weights[node.input[1]], weights[node.input[2]]
        conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=given.get("pads", [0])[0])
        conv.weight.data, conv.bias.data = weight, bias  # type: ignore[union-attr]
        return conv
    if node.op_type == "Gemm":
        weight = weights[node.input[1]] if given.get("transB") else weights[node.input[1]].T
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=len(node.input) == 3)
        linear.weight.data = weight
        if len(node.input) == 3:
            linear.bias.data = weights[node.input[2]]
        return linear
    if node.op_type == "MaxPool":
        return nn.MaxPool2d(given["kernel_shape"][0], given["strides"][0])
    others: dict[str, type[nn.Module]] = {"Relu": nn.ReLU, "Reshape": nn.Flatten, "Flatten": nn.Flatten}
    if node.op_type in others:
        return others[node.op_type]()
    if node.op_type in ("Transpose", "Cast", "Softmax"):  # `forward` does these
        return None
    raise Skip(f"the graph has a {node.op_type}, which this copy of it has not")


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
    network = Network(model_file(context, "fp32"), dtype).eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = torch.compile(network, mode=mode, dynamic=False) if mode else network
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
