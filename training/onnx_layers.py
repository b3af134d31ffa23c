"""Layers in torch → the nodes of an ONNX graph. `WRITERS` is the one place where a kind of layer is added.

A network that is exported consists of a few kinds of plain layers, each of which is one or a few nodes; to write them
down takes milliseconds. `torch.onnx` finds them by tracing, through a compiler, and took sixty times as long.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from training.architectures.blocks import Excitation, Residual
from training.errors import ExportError
from training.onnx_nodes import Nodes


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its name, and one that has its shape for one image."""

    name: str
    example: Tensor  # (1, C, H, W) or (1, C)


@dataclass(frozen=True)
class LayerWriter:
    """Writes layers, given with the names that their weights have in `weights`."""

    nodes: Nodes
    weights: Mapping[str, Tensor]

    def write(self, layer: nn.Module, name: str, x: Value) -> Value:
        """What `layer` makes of `x`; raises `ExportError` for a kind that is not in `WRITERS`."""
        if (writer := WRITERS.get(type(layer))) is None:
            raise ExportError(
                f"No ONNX is known for the layer {type(layer).__name__}; have the architecture's inference_layers "
                f"consist of {', '.join(kind.__name__ for kind in WRITERS)}, or add it to training/onnx_layers.py."
            )
        return Value(writer(self, layer, name, x), layer(x.example))

    def parameters(self, name: str) -> list[str]:
        """Weight and, if there is one, bias of the layer `name`."""
        names = (f"{name}.weight", f"{name}.bias")
        held = {each: self.weights[each].numpy() for each in names if each in self.weights}
        return [self.nodes.constant(values, named=each, dtype=values.dtype) for each, values in held.items()]


@torch.no_grad()
def write_layers(nodes: Nodes, layers: nn.Sequential, name: str, x: str, shape: tuple[int, ...]) -> str:
    """Add to `nodes` what `layers`, called `name`, make of `x`, which is of that `shape` for one image.

    Returns the name of the result. Raises `ExportError` for a kind of layer that is not in `WRITERS`.
    """
    weights = {f"{name}.{each}": tensor for each, tensor in layers.state_dict().items()}
    return LayerWriter(nodes, weights).write(copy.deepcopy(layers).float(), name, Value(x, torch.zeros(shape))).name


def _sequence(writer: LayerWriter, layers: nn.Sequential, name: str, x: Value) -> str:
    for number, layer in layers.named_children():
        x = writer.write(layer, f"{name}.{number}", x)
    return x.name


def _residual(writer: LayerWriter, layers: Residual, name: str, x: Value) -> str:
    return writer.nodes.add("Add", x.name, _sequence(writer, layers, name, x))


def _excitation(writer: LayerWriter, layers: Excitation, name: str, x: Value) -> str:
    nodes, (_, channels, *area) = writer.nodes, x.example.shape
    means = nodes.add("AveragePool", x.name, kernel_shape=area, strides=area)
    means = nodes.add("Reshape", means, nodes.constant([0, channels], named=f"{name}.channels", dtype=np.int64))
    gate = nodes.add("Sigmoid", _sequence(writer, layers, name, Value(means, x.example.mean((2, 3)))))
    two = nodes.constant(2, named=f"{name}.two", dtype=writer.weights[f"{name}.0.weight"].numpy().dtype)
    weights = nodes.add("Mul", gate, two)
    axes = nodes.constant([2, 3], named=f"{name}.axes", dtype=np.int64)
    return nodes.add("Mul", x.name, nodes.add("Unsqueeze", weights, axes))


def _convolution(writer: LayerWriter, layer: nn.Conv2d, name: str, x: Value) -> str:
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise ExportError("A convolution's padding can only be exported as numbers of zeros; give it so.")
    return writer.nodes.add(
        "Conv",
        x.name,
        *writer.parameters(name),
        kernel_shape=layer.kernel_size,
        strides=layer.stride,
        pads=(*layer.padding, *layer.padding),
        dilations=layer.dilation,
        group=layer.groups,
    )


def _max_pool(writer: LayerWriter, layer: nn.MaxPool2d, _name: str, x: Value) -> str:
    padding = _pair(layer.padding)
    return writer.nodes.add(
        "MaxPool",
        x.name,
        kernel_shape=_pair(layer.kernel_size),
        strides=_pair(layer.stride),
        pads=(*padding, *padding),
        dilations=_pair(layer.dilation),
        ceil_mode=int(layer.ceil_mode),
    )


def _pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else size


def _relu(writer: LayerWriter, _layer: nn.ReLU, _name: str, x: Value) -> str:
    return writer.nodes.add("Relu", x.name)


def _gelu(writer: LayerWriter, layer: nn.GELU, _name: str, x: Value) -> str:
    return writer.nodes.add("Gelu", x.name, approximate=layer.approximate)


def _flatten(writer: LayerWriter, layer: nn.Flatten, name: str, x: Value) -> str:
    _, features = layer(x.example).shape
    shape = writer.nodes.constant([0, features], named=f"{name}.shape", dtype=np.int64)
    return writer.nodes.add("Reshape", x.name, shape)


def _linear(writer: LayerWriter, _layer: nn.Linear, name: str, x: Value) -> str:
    return writer.nodes.add("Gemm", x.name, *writer.parameters(name), transB=1)


Writer: TypeAlias = Callable[[LayerWriter, Any, str, Value], str]
WRITERS: dict[type[nn.Module], Writer] = {
    nn.Conv2d: _convolution,
    nn.ReLU: _relu,
    nn.GELU: _gelu,
    nn.MaxPool2d: _max_pool,
    nn.Flatten: _flatten,
    nn.Linear: _linear,
    nn.Sequential: _sequence,
    Residual: _residual,
    Excitation: _excitation,
}
