"""Layers in torch → ONNX nodes that compute the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from training.architectures import ARCHITECTURES
from training.architectures.blocks import Excitation, Residual
from training.calibrate import Calibrator
from training.errors import ExportError
from training.onnx_graph import InferenceGraph, run_onnx, write_onnx
from training.onnx_layers import WRITERS, write_layers
from training.onnx_nodes import Nodes

LAYERS: list[Callable[[], nn.Module]] = [
    lambda: nn.Conv2d(4, 6, 3),
    lambda: nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(0, 2), bias=False),
    lambda: nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2),
    lambda: nn.ReLU(),
    lambda: nn.GELU(),
    lambda: nn.GELU("tanh"),
    lambda: nn.MaxPool2d(2),
    lambda: nn.MaxPool2d((3, 2), stride=(2, 3), padding=(1, 0), ceil_mode=True),
    lambda: nn.MaxPool2d(3, stride=1, padding=1, dilation=2, ceil_mode=False),
    lambda: nn.Sequential(nn.Flatten(), nn.Linear(4 * 9 * 8, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)),
    lambda: Residual(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1)),
    lambda: Excitation(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 4)),
    lambda: Residual(nn.Conv2d(4, 4, 1), Excitation(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 4))),
]


def computed(layers: nn.Sequential, x: Tensor) -> np.ndarray:
    """What ONNX Runtime makes of `x` by the nodes of `layers`, whose batch size is free."""
    nodes = Nodes()
    output = write_layers(nodes, layers, "layers", "x", (1, *x.shape[1:]))
    kind = TensorProto.FLOAT16 if x.dtype == torch.float16 else TensorProto.FLOAT
    ends = ([helper.make_tensor_value_info("x", kind, ["batch", *x.shape[1:]])], [onnx.ValueInfoProto(name=output)])
    graph = onnx.shape_inference.infer_shapes(
        helper.make_model(
            helper.make_graph(nodes.nodes, "layers", *ends, nodes.constants),
            opset_imports=[helper.make_opsetid("", 20)],
            ir_version=10,
        ),
        strict_mode=True,
    )
    assert graph.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": x.numpy()})
    return np.asarray(result)


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@torch.no_grad()
def test_nodes_compute_what_the_layer_does(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(make())
    x = torch.randn((3, 4, 9, 8))
    expected = layers(x).numpy()
    got = computed(layers.to(dtype), x.to(dtype))
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < (1e-5 if dtype == torch.float32 else 1e-2)


def test_every_kind_of_layer_is_tried() -> None:
    tried = {type(part) for make in LAYERS for part in nn.Sequential(make()).modules()}
    assert tried == set(WRITERS)


def test_a_layer_without_onnx_is_named_with_those_that_have_it() -> None:
    told = re.escape(
        "No ONNX is known for the layer SiLU; have the architecture's inference_layers consist of Conv2d, "
    )
    with pytest.raises(ExportError, match=told):
        write_layers(Nodes(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU()), "layers", "x", (1, 3, 8, 8))


@pytest.mark.parametrize("conv", [nn.Conv2d(3, 4, 3, padding="same"), nn.Conv2d(3, 4, 3, padding_mode="reflect")])
def test_padding_by_anything_but_numbers_of_zeros_is_refused(conv: nn.Conv2d) -> None:
    with pytest.raises(ExportError, match="only be exported as numbers of zeros"):
        write_layers(Nodes(), nn.Sequential(conv), "layers", "x", (1, 3, 8, 8))


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_written_network_answers_as_in_torch_at_any_batch_size(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    calibrator = Calibrator(1.3, tuple(0.1 * i for i in range(10)), 1.4)
    graph = InferenceGraph(ARCHITECTURES[name](10), calibrator)
    images = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    write_onnx(graph, tmp_path / "model.onnx", height=32, width=32, properties={"name": "x"})
    with torch.no_grad():
        expected = graph(images).numpy()
    for batch_size in (1, 2, 5):
        assert np.abs(run_onnx(tmp_path / "model.onnx", images.numpy(), batch_size) - expected).max() < 1e-5
    model = onnx.load(tmp_path / "model.onnx")
    assert {(each.key, each.value) for each in model.metadata_props} == {("name", "x")}
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
