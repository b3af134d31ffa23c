"""The served networks: plain dense 3×3 convolutions, whitened input, shaped for fast CPU inference.

Channels are multiples of 16 (the width of an AVX-512 register of floats), the activation is ReLU and comes before
pooling in the exported graph, so that a quantised graph stays integer throughout.
The ingredients are those of K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (2024), whose networks
go back to D. Page, "How to Train Your ResNet" (2018): frozen whitening convolution, identity initialisation,
batch normalisation with its scale frozen at one, a scaled linear head. Those of his networks that reach 96 % have a
third convolution per stage, with a connection around the second and third. What these two make may be weighed by
squeeze and excitation (J. Hu et al., "Squeeze-and-excitation networks", 2018): nearly free, and worth half a point.
The speed recipe's network is of the same kind, with his GELU and whitening in place of what suits integers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.architectures.blocks import ExcitedStage, ResidualStage, SmoothStage, Stage, convolution
from training.architectures.network import CIFAR10_MEAN, CIFAR10_STD, Network, Weights
from training.architectures.whitening import whitening_filters
from training.errors import ArchitectureError

SMALLEST = 10  # pixels of an image's side, with which there are some left for the last stage
HEAD_SCALE = 1 / 9


class PlainCNN(Network):
    """Whitening → per stage [conv, pool, conv and perhaps another] → pool → linear.

    `widths` are the channels of the stages, `depths` their convolutions; 32 × 32 pixels become 30 → 15 → 7 → 3 → 1, and
    those of any other `size` as many times fewer. What is whitened are patches of `patch` × `patch` pixels, in so many
    `directions` of most variance, each with a filter and its negative. With `excited`, stages of three convolutions
    have squeeze and excitation; with `smooth`, those of two have GELU in ReLU's place, and so has the whitening.
    Raises `ArchitectureError` for images that are gone before the last stage.
    """

    def __init__(
        self,
        classes: int = 10,
        widths: tuple[int, ...] = (64, 240, 256),
        depths: tuple[int, ...] = (2, 2, 2),
        *,
        patch: int = 3,
        directions: int = 16,
        excited: bool = False,
        smooth: bool = False,
        size: int = 32,
    ) -> None:
        super().__init__(CIFAR10_MEAN, CIFAR10_STD)
        self.last_pool = (size - patch + 1) >> len(widths)
        if self.last_pool < 1:
            raise ArchitectureError(f"Images of {size} × {size} pixels are too small; take {SMALLEST} or more.")
        self.whiten = nn.Conv2d(3, 2 * directions, patch)
        self.whiten.weight.requires_grad = False
        self.activation = nn.GELU() if smooth else nn.ReLU()
        inputs = (2 * directions, *widths)
        kinds = {2: SmoothStage if smooth else Stage, 3: ExcitedStage if excited else ResidualStage}
        self.stages = nn.ModuleList(kinds[depth](i, o) for i, o, depth in zip(inputs, widths, depths, strict=False))
        self.head = nn.Linear(widths[-1], classes, bias=False)

    def classify(self, x: Tensor) -> Tensor:
        """See `Network.classify`."""
        x = self.activation(self.whiten(x))
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
        yield from (convolution(self.whiten.weight, self.whiten.bias), copy.copy(self.activation))
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
        parts = chain.from_iterable(stage.parts() for stage in self.stages)  # type: ignore[operator]  # each is a stage, which `ModuleList` forgets
        for (layer, norm), (weight, bias) in zip(parts, others, strict=True):
            layer.weight.copy_(weight)
            (layer if norm is None else norm).bias.copy_(bias)
            if norm is not None:
                norm.running_mean.zero_()
                norm.running_var.fill_(1 - norm.eps)
        self.head.weight.copy_(head / HEAD_SCALE)

    def initialise(self, batches: Iterable[Tensor]) -> None:
        """Whiten the patches of images, see `whitening_filters`."""
        patch, directions = self.whiten.kernel_size[0], self.whiten.out_channels // 2
        filters = whitening_filters(batches, patch, directions)
        self.whiten.weight.data = torch.cat([filters, -filters]).to(self.whiten.weight)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]  # this convolution has one
