"""Trained network → ONNX graph → probabilities: writing the file and running it, nothing decided here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from service.metadata import INPUT, OUTPUT
from training.architectures import Network
from training.calibrate import Calibrator, bent_softmax
from training.errors import ExportError
from training.onnx_layers import write_layers
from training.onnx_nodes import Nodes

Array = npt.NDArray[Any]  # of whatever type a constant of a graph has
OPSET, IR_VERSION = 20, 10  # of early 2024: what reads ONNX today reads these
FORMATS = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}
LOGITS = "scaled_logits"  # what a network from elsewhere has in place of a last linear layer's output
BATCH_PIXELS = 256 * 32 * 32  # of images that are run together, and 8 images at least


class InferenceGraph(nn.Module):
    """uint8 (N, H, W, 3) → float32 probabilities (N, classes).

    Normalisation is folded into the first convolution, temperature and class biases into the last linear layer, so
    that nothing is left of them but weights. With `dtype` float16 everything but the softmax is in that format.
    """

    def __init__(self, network: Network, calibrator: Calibrator, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        layers = [copy.deepcopy(layer) for layer in network.cpu().eval().inference_layers()]
        _fold_normalisation(layers[0], network.mean, network.std)
        _fold_calibrator(layers[-1], calibrator)
        self.layers = nn.Sequential(*layers).to(dtype)
        self.dtype, self.exponent = dtype, calibrator.exponent

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities (N, classes) for uint8 images (N, H, W, 3)."""
        logits: Tensor = self.layers(image.permute(0, 3, 1, 2).to(self.dtype))
        return bent_softmax(logits.float(), self.exponent)  # of 1 too: the int8 file's exponent may be another

    @property
    def classes(self) -> int:
        """How many."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        return last.out_features


def _fold_normalisation(layer: nn.Module, mean: Tensor, std: Tensor) -> None:
    """conv((x - mean) / std) as one convolution of x; exact only without padding, whose zeros are not pixels."""
    if not isinstance(layer, nn.Conv2d) or layer.padding != (0, 0) or layer.bias is None:
        raise ExportError(
            "The first layer must be an unpadded convolution with a bias; change the architecture's inference_layers."
        )
    weight = layer.weight.double() / std.double()
    layer.bias.data = (layer.bias.double() - (weight * mean.double()).sum((1, 2, 3))).float().detach()
    layer.weight.data = weight.float().detach()


def _fold_calibrator(layer: nn.Module, calibrator: Calibrator) -> None:
    if not isinstance(layer, nn.Linear):
        raise ExportError("The last layer must be linear; change the architecture's inference_layers.")
    layer.weight.data = layer.weight.detach() / calibrator.temperature
    layer.bias.data = calibrator.scaled(layer.bias.detach())


def write_onnx(graph: InferenceGraph, path: Path, *, height: int, width: int, properties: dict[str, str]) -> None:
    """Write `graph` to `path`: one file, dynamic batch, opset 20; raises `ExportError` for a layer without ONNX."""
    nodes = Nodes()
    pixels = nodes.add("Cast", nodes.add("Transpose", INPUT, perm=(0, 3, 1, 2)), to=FORMATS[graph.dtype])
    logits = write_layers(nodes, graph.layers, "layers", pixels, (1, 3, height, width))
    if graph.dtype != torch.float32:
        logits = nodes.add("Cast", logits, to=TensorProto.FLOAT)
    surprisal = nodes.add("Abs", nodes.add("LogSoftmax", logits, axis=1))
    bent = nodes.add("Pow", surprisal, nodes.constant(graph.exponent, named="exponent"))
    nodes.add("Softmax", nodes.add("Neg", bent), axis=1, named=OUTPUT)
    image = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", height, width, 3])
    probabilities = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", graph.classes])
    model = helper.make_model(
        helper.make_graph(nodes.nodes, "classifier", [image], [probabilities], nodes.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="convoy",
    )
    helper.set_model_props(model, properties)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))


def run_onnx(path: Path, images: npt.NDArray[np.uint8], batch_size: int | None = None) -> npt.NDArray[np.float32]:
    """Probabilities (N, classes) of uint8 images (N, H, W, 3) by the exported file, on the CPU."""
    (probabilities,) = _run(str(path), [OUTPUT], images, batch_size)
    return probabilities


def run_onnx_with_logits(
    path: Path, images: npt.NDArray[np.uint8], batch_size: int | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """As `run_onnx`, and what the last layer gave: (N, classes), (N, classes)."""
    model = onnx.load(path)
    named = any(LOGITS in node.output for node in model.graph.node)
    logits = LOGITS if named else last_layer(model.graph).output[0]
    model.graph.output.append(onnx.ValueInfoProto(name=logits))
    probabilities, values = _run(model.SerializeToString(), [OUTPUT, logits], images, batch_size)
    return probabilities, values.astype(np.float32)


def last_layer(graph: onnx.GraphProto) -> onnx.NodeProto:
    """The node that gives the logits."""
    *_, last = (node for node in graph.node if node.op_type == "Gemm")
    return cast(onnx.NodeProto, last)


def change_constant(graph: onnx.GraphProto, name: str, made: Callable[[Array], Array]) -> Array:
    """Replace the constant `name` by what `made` makes of it, in its type; returns the new values."""
    tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
    old = numpy_helper.to_array(tensor)
    new: Array = made(old).astype(old.dtype)
    tensor.CopyFrom(numpy_helper.from_array(new, name))
    return new


def open_onnx(model: str | bytes) -> onnxruntime.InferenceSession:
    """A model, its file or its bytes, on the CPU, with sums of integers that never overflow.

    CPUs without int8 dot products (VNNI) would cut off such sums, and are asked for the slow way.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, and told by those who ask
    if not torch.cpu._is_vnni_supported():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(
    model: str | bytes, outputs: list[str], images: npt.NDArray[np.uint8], batch_size: int | None
) -> list[npt.NDArray[np.float32]]:
    """What a model, its file or its bytes, gives of all images: (N, classes) for each of the `outputs`."""
    session = open_onnx(model)
    size = batch_size or max(8, BATCH_PIXELS // (images.shape[1] * images.shape[2]))
    batches = [session.run(outputs, {INPUT: images[i : i + size]}) for i in range(0, len(images), size)]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def count_macs(graph: InferenceGraph, *, height: int, width: int) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image."""
    total = 0

    def add(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output[0].numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel()

    hooks = [layer.register_forward_hook(add) for layer in graph.modules()]
    with torch.no_grad():
        graph(torch.zeros((1, height, width, 3), dtype=torch.uint8))
    for hook in hooks:
        hook.remove()
    return total
