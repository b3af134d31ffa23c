"""The served networks: plain dense 3×3 convolutions, whitened input, shaped for fast CPU inference.

Channels are multiples of 16 (the width of an AVX-512 register of floats), the activation is ReLU and comes before
pooling in the exported graph, so that a quantised graph stays integer throughout.
The ingredients are those of K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (2024), whose networks
go back to D. Page, "How to Train Your ResNet" (2018): frozen whitening convolution, identity initialisation,
batch normalisation with its scale frozen at one, a scaled linear head. Those of his networks that reach 96 % have a
third convolution per stage, with a connection around the second and third. What these two make may be weighed by
squeeze and excitation (J. Hu et al., "Squeeze-and-excitation networks", 2018): nearly free, and worth half a point.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.architectures.network import CIFAR10_MEAN, CIFAR10_STD, Network, Weights
from training.errors import ArchitectureError

WHITENING_EPSILON = 5e-4
SMALLEST = 10  # pixels of an image's side, with which there are some left for the last stage
SQUEEZE = 8  # times fewer channels between squeeze and excitation
WHITENED_DIRECTIONS = 16  # of the 27 of a 3×3×3 patch, by variance; each as a filter and its negative
HEAD_SCALE = 1 / 9


class PlainCNN(Network):
    """3×3 whitening → per stage [conv, pool, conv and perhaps another] → pool → linear.

    `widths` are the channels of the stages, `depths` their convolutions; 32 × 32 pixels become 30 → 15 → 7 → 3 → 1, and
    those of any other `size` as many times fewer. With `excited`, stages of three convolutions have squeeze and
    excitation. Raises `ArchitectureError` for images that are gone before the last stage.
    """

    def __init__(
        self,
        classes: int = 10,
        widths: tuple[int, ...] = (64, 240, 256),
        depths: tuple[int, ...] = (2, 2, 2),
        *,
        excited: bool = False,
        size: int = 32,
    ) -> None:
        super().__init__(CIFAR10_MEAN, CIFAR10_STD)
        self.last_pool = (size - 2) >> len(widths)
        if self.last_pool < 1:
            raise ArchitectureError(f"Images of {size} × {size} pixels are too small; take {SMALLEST} or more.")
        self.whiten = nn.Conv2d(3, 2 * WHITENED_DIRECTIONS, 3)
        self.whiten.weight.requires_grad = False
        inputs = (2 * WHITENED_DIRECTIONS, *widths)
        residual = ExcitedStage if excited else ResidualStage
        self.stages = nn.ModuleList(
            (Stage if depth == 2 else residual)(i, o) for i, o, depth in zip(inputs, widths, depths, strict=False)
        )
        self.head = nn.Linear(widths[-1], classes, bias=False)

    def classify(self, x: Tensor) -> Tensor:
        """See `Network.classify`."""
        x = F.relu(self.whiten(x))
        for stage in self.stages:
            x = stage(x)
        x = F.max_pool2d(x, self.last_pool).flatten(1)
        logits: Tensor = self.head(x) * HEAD_SCALE
        return logits

    @property
    def last_layer(self) -> nn.Linear:
        """See `Network.last_layer`."""
        return self.head

    def inference_layers(self) -> Iterator[nn.Module]:
        """See `Network.inference_layers`."""
        yield from (_conv(self.whiten.weight, self.whiten.bias), nn.ReLU())
        for stage in self.stages:
            assert isinstance(stage, Stage)
            yield from stage.inference_layers()
        yield from (nn.MaxPool2d(self.last_pool), nn.Flatten())
        head = nn.Linear(self.head.in_features, self.head.out_features)
        head.weight.data = self.head.weight.detach() * HEAD_SCALE
        head.bias.data = torch.zeros(self.head.out_features)
        yield head

    @torch.no_grad()
    def adopt(self, layers: Sequence[Weights]) -> None:
        """See `Network.adopt`: what was folded into a convolution stays there, and its norm only adds the bias."""
        (filters, bias), *others, (head, _) = layers
        self.whiten.weight.copy_(filters)
        self.whiten.bias.copy_(bias)  # type: ignore[union-attr]  # this convolution has one
        parts = chain.from_iterable(stage.parts() for stage in self.stages)  # type: ignore[operator]
        for (layer, norm), (weight, bias) in zip(parts, others, strict=True):
            layer.weight.copy_(weight)
            (layer if norm is None else norm).bias.copy_(bias)
            if norm is not None:
                norm.running_mean.zero_()
                norm.running_var.fill_(1 - norm.eps)
        self.head.weight.copy_(head / HEAD_SCALE)

    def initialise(self, images: Tensor) -> None:
        """Whiten the 3×3 patches of `images`: eigenvectors of their covariance over the root of the eigenvalues."""
        patches = images.unfold(2, 3, 1).unfold(3, 3, 1)  # (N, 3, H-2, W-2, 3, 3)
        patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 27).double()
        eigenvalues, eigenvectors = torch.linalg.eigh(torch.cov(patches.T))  # ascending
        scale = torch.rsqrt(eigenvalues + WHITENING_EPSILON)
        filters = (eigenvectors * scale).T[-WHITENED_DIRECTIONS:].reshape(-1, 3, 3, 3).float()
        self.whiten.weight.data = torch.cat([filters, -filters]).to(self.whiten.weight)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]  # this convolution has one


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
        """As `forward`; norm and ReLU may move before the pooling because both are rising functions."""
        yield from (
            _fold(self.conv1, self.norm1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            _fold(self.conv2, self.norm2),
            nn.ReLU(),
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
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
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
    return _conv(weight.float(), (norm.bias.double() - norm.running_mean.double() * scale).float(), padding=1)


def _conv(weight: Tensor, bias: Tensor | None, padding: int = 0) -> nn.Conv2d:
    outputs, inputs, *_ = weight.shape
    conv = nn.Conv2d(inputs, outputs, 3, padding=padding)
    assert bias is not None
    conv.weight.data, conv.bias.data = weight.detach().clone(), bias.detach().clone()  # type: ignore[union-attr]
    return conv
