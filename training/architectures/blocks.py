"""The stages of the plain networks: as they learn, and again as the plain layers that compute the same."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.architectures.small_maps import Convolution

SQUEEZE = 8  # the reduction ratio: times fewer channels between squeeze and excitation


class Stage(nn.Module):
    """conv → pool → norm → ReLU → conv → norm → ReLU: (N, inputs, H, W) → (N, outputs, H // 2, W // 2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = _identity_conv(inputs, outputs)
        self.norm1 = _bias_norm(outputs)
        self.conv2 = _identity_conv(outputs, outputs)
        self.norm2 = _bias_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Pool first, then normalise and rectify: the same values for a quarter of the memory traffic."""
        x = F.relu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.relu(self.norm2(self.conv2(x)))

    def parts(self) -> Iterator[tuple[nn.Conv2d | nn.Linear, nn.BatchNorm2d | None]]:
        """Its convolutions, each with the norm behind it, and its linear layers."""
        yield from ((self.conv1, self.norm1), (self.conv2, self.norm2))

    def inference_layers(self) -> Iterator[nn.Module]:
        """As `forward`; norm and ReLU may move before the max pooling because both are non-decreasing."""
        yield from (
            _fold(self.conv1, self.norm1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            _fold(self.conv2, self.norm2),
            nn.ReLU(),
        )


class SmoothStage(Stage):
    """A stage with GELU in ReLU's place: for its size it learns a little more, and is the slower network in use."""

    def forward(self, x: Tensor) -> Tensor:
        """As `Stage.forward`."""
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))

    def inference_layers(self) -> Iterator[nn.Module]:
        """As `forward`; GELU stays behind the pooling, since it is not monotonic."""
        yield from (
            _fold(self.conv1, self.norm1),
            nn.MaxPool2d(2),
            nn.GELU(),
            _fold(self.conv2, self.norm2),
            nn.GELU(),
        )


class ResidualStage(Stage):
    """A stage whose second convolution is followed by a third; what entered the second is added to what they make."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.conv3 = _identity_conv(outputs, outputs)
        self.norm3 = _bias_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """As `Stage.forward`, then conv → norm → sum → ReLU."""
        x = F.relu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.relu(x + self.branch(x))

    def branch(self, x: Tensor) -> Tensor:
        """What is added to `x`; same shape."""
        third: Tensor = self.norm3(self.conv3(F.relu(self.norm2(self.conv2(x)))))
        return third

    def parts(self) -> Iterator[tuple[nn.Conv2d | nn.Linear, nn.BatchNorm2d | None]]:
        """As `Stage.parts`, and the third."""
        yield from (*super().parts(), (self.conv3, self.norm3))

    def inference_layers(self) -> Iterator[nn.Module]:
        """As `forward`, with norms and ReLU where `Stage.inference_layers` has them."""
        *first, conv2, relu = super().inference_layers()
        yield from (*first, Residual(conv2, relu, *self.last_of_branch()), nn.ReLU())

    def last_of_branch(self) -> Iterator[nn.Module]:
        """What `inference_layers` has between the second convolution and the sum."""
        yield _fold(self.conv3, self.norm3)


class ExcitedStage(ResidualStage):
    """A residual stage that weighs each channel of what it adds by 0 … 2, as their means over the image suggest."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.squeeze = nn.Linear(outputs, outputs // SQUEEZE)
        self.excite = nn.Linear(outputs // SQUEEZE, outputs)
        nn.init.zeros_(self.excite.weight)  # every weight is one before it has learned anything
        nn.init.zeros_(self.excite.bias)

    def branch(self, x: Tensor) -> Tensor:
        """As `ResidualStage.branch`, weighed."""
        excitation = Excitation(self.squeeze, nn.ReLU(), self.excite)
        weighed: Tensor = excitation(super().branch(x))
        return weighed

    def parts(self) -> Iterator[tuple[nn.Conv2d | nn.Linear, nn.BatchNorm2d | None]]:
        """As `ResidualStage.parts`, and the linear layers."""
        yield from (*super().parts(), (self.squeeze, None), (self.excite, None))

    def last_of_branch(self) -> Iterator[nn.Module]:
        """As `ResidualStage.last_of_branch`, and the weighing."""
        yield from super().last_of_branch()
        yield Excitation(copy.deepcopy(self.squeeze), nn.ReLU(), copy.deepcopy(self.excite))


class Excitation(nn.Sequential):
    """An input (N, C, H, W) times 0 … 2 for each channel, twice the sigmoid of what its layers make of their means."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in as out."""
        weights = F.avg_pool2d(x, x.shape[2:]).flatten(1)
        for layer in self:
            weights = layer(weights)
        return x * (2 * weights.sigmoid())[:, :, None, None]


class Residual(nn.Sequential):
    """What its layers make of an input, and the input added to it: one Add in the exported graph."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in as out."""
        y = x
        for layer in self:
            y = layer(y)
        return x + y


def _identity_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3×3 convolution that passes its inputs on unchanged before it has learned anything."""
    conv = Convolution(inputs, outputs)
    nn.init.dirac_(conv.weight.data[:inputs])
    return conv


def _bias_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation that learns only its bias, with statistics that follow the weights quickly."""
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad = False
    return norm


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """The convolution that computes norm(conv(x)) with the running statistics, in double precision."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
    if not bool((scale > 0).all()):
        raise ValueError("batch normalisation with a negative scale can't be moved before max pooling")
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    return convolution(weight.float(), (norm.bias.double() - norm.running_mean.double() * scale).float(), padding=1)


def convolution(weight: Tensor, bias: Tensor | None, padding: int = 0) -> nn.Conv2d:
    """A convolution with copies of these weights."""
    outputs, inputs, height, width = weight.shape
    conv = nn.Conv2d(inputs, outputs, (height, width), padding=padding)
    assert bias is not None
    conv.weight.data, conv.bias.data = weight.detach().clone(), bias.detach().clone()  # type: ignore[union-attr]  # it was made with one
    return conv
