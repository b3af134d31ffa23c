"""Networks: sizes, initial states, and the folded layers that compute the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from training.architectures import ARCHITECTURES, Network
from training.architectures.blocks import Excitation, ResidualStage
from training.architectures.plain_cnn import PlainCNN
from training.architectures.tutorial_cnn import TutorialCNN
from training.calibrate import Calibrator
from training.onnx_graph import InferenceGraph, count_macs
from training.optim import SGD


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(0, 256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()


def used(network: Network, pixels: Tensor) -> Network:
    """After some training, so that no statistic or bias is at its start."""
    torch.manual_seed(0)
    network.initialise([(pixels - network.mean) / network.std])
    optimizer = SGD([p for p in network.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        loss = nn.functional.cross_entropy(network(pixels), torch.arange(len(pixels)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval()


def test_the_tutorial_cnn_has_its_122570_parameters() -> None:
    assert sum(p.numel() for p in TutorialCNN().parameters()) == 122_570


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_folding_changes_nothing(name: str, pixels: Tensor) -> None:
    network = used(ARCHITECTURES[name](10), pixels)
    calibrator = Calibrator(1.7, tuple(0.1 * i for i in range(10)), 1.4)
    graph = InferenceGraph(network, calibrator)
    with torch.no_grad():
        expected = calibrator(network(pixels))
        got = graph(pixels.byte().permute(0, 2, 3, 1))
    assert (got - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_folded_graph_has_only_plain_layers(name: str) -> None:
    graph = InferenceGraph(ARCHITECTURES[name](10), Calibrator())
    kinds = {type(layer) for layer in graph.layers.modules() if not isinstance(layer, nn.Sequential)}
    activation = nn.GELU if name == "speed-cnn" else nn.ReLU
    assert kinds == {nn.Conv2d, activation, nn.MaxPool2d, nn.Flatten, nn.Linear}


def test_a_network_with_squeeze_and_excitation_starts_as_the_same_without(pixels: Tensor) -> None:
    excited, plain = ARCHITECTURES["excited-cnn-small"](10), ARCHITECTURES["plain-cnn-small"](10)
    added = excited.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert {name.split(".")[2] for name in added} == {"squeeze", "excite"}
    assert torch.allclose(excited(pixels), plain(pixels), atol=1e-5)


def test_excitation_weighs_each_channel_by_the_means_of_all() -> None:
    to_sum, to_gate = nn.Linear(2, 1, bias=False), nn.Linear(1, 2)
    nn.init.ones_(to_sum.weight)
    with torch.no_grad():
        to_gate.weight.copy_(torch.tensor([[100.0], [-100.0]]))
        to_gate.bias.zero_()
    x = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]], [[[0.0, 0.0]], [[5.0, -5.0]]]])  # means of 2 and 2, 0 and 0
    expected = torch.tensor([[[[2.0, 6.0]], [[0.0, 0.0]]], [[[0.0, 0.0]], [[5.0, -5.0]]]])
    assert torch.allclose(Excitation(to_sum, to_gate)(x), expected)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("plain-cnn", 114.6), ("plain-cnn-deep", 97.7), ("excited-cnn", 97.7), ("excited-cnn-small", 29.2)],
)
def test_the_served_networks_are_shaped_for_cpus(name: str, millions: float) -> None:
    graph = InferenceGraph(ARCHITECTURES[name](10), Calibrator())
    convolutions = [layer for layer in graph.modules() if isinstance(layer, nn.Conv2d)]
    assert all(conv.out_channels % 16 == 0 and conv.kernel_size == (3, 3) for conv in convolutions)
    assert convolutions[0].padding == (0, 0)
    assert round(count_macs(graph, height=32, width=32) / 1e6, 1) == millions
    layers = list(graph.layers)
    assert all(isinstance(layers[i - 1], nn.ReLU) for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d))


def test_the_speed_network_costs_no_more_than_the_records() -> None:
    graph = InferenceGraph(ARCHITECTURES["speed-cnn"](10), Calibrator())
    assert round(count_macs(graph, height=32, width=32) / 1e6, 1) == 118.1


@pytest.mark.parametrize(("name", "directions"), [("plain-cnn", 16), ("speed-cnn", 12)])
def test_whitening_makes_patches_white(name: str, directions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = nn.functional.avg_pool2d(torch.randn((64, 3, 36, 36), generator=generator), 5, stride=1) * 3
    network = ARCHITECTURES[name](10)
    assert isinstance(network, PlainCNN)
    network.initialise([smooth])
    with torch.no_grad():
        responses = network.whiten(smooth)[:, :directions].transpose(0, 1).flatten(1)
    covariance = torch.cov(responses)
    assert (covariance - torch.diag(covariance.diag())).abs().max() < 0.05
    assert torch.allclose(network.whiten.weight[:directions], -network.whiten.weight[directions:])


def test_whitening_is_the_same_in_one_batch_and_in_many() -> None:
    images = torch.randn((60, 3, 12, 12), generator=torch.Generator().manual_seed(0)) + 0.5
    whole, parts = PlainCNN(size=12), PlainCNN(size=12)
    whole.initialise([images])
    parts.initialise(torch.split(images, 7))
    assert torch.allclose(whole.whiten.weight, parts.whiten.weight, atol=1e-5)


def test_convolutions_start_as_the_identity() -> None:
    stage = PlainCNN().stages[1]
    x = torch.randn((2, 64, 6, 6))
    assert torch.allclose(stage.conv1(x)[:, :64], x, atol=1e-6)  # type: ignore[operator]


def test_a_third_convolution_adds_what_entered_the_second() -> None:
    stage = ResidualStage(16, 16).eval()
    x = torch.randn((2, 16, 8, 8)).relu()
    before = stage(x)
    nn.init.zeros_(stage.conv3.weight)
    with torch.no_grad():
        entered = nn.functional.relu(stage.norm1(nn.functional.max_pool2d(stage.conv1(x), 2)))
        assert torch.equal(stage(x), entered)
        assert torch.allclose(before, 2 * entered, rtol=1e-4)  # convolutions start as the identity


def test_only_whitening_filters_and_norm_scales_are_frozen() -> None:
    frozen = {name for name, p in PlainCNN().named_parameters() if not p.requires_grad}
    assert frozen == {"whiten.weight", *(f"stages.{i}.norm{j}.weight" for i in range(3) for j in (1, 2))}
