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

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.architectures.blocks import ExcitedStage, ResidualStage, Stage, convolution
from training.architectures.network import CIFAR10_MEAN, CIFAR10_STD, Network, Weights
from training.errors import ArchitectureError

WHITENING_EPSILON = 5e-4
SMALLEST = 10  # pixels of an image's side, with which there are some left for the last stage
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
        yield from (convolution(self.whiten.weight, self.whiten.bias), nn.ReLU())
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

    def initialise(self, batches: Iterable[Tensor]) -> None:
        """Whiten the 3×3 patches of images: eigenvectors of their covariance over the root of the eigenvalues.

        Only one batch's patches are there at a time: they take 72 times the memory of the pictures' bytes.
        """
        count, total, products = 0, torch.zeros(27).double(), torch.zeros(27, 27).double()
        for images in batches:
            patches = images.unfold(2, 3, 1).unfold(3, 3, 1)  # (N, 3, H-2, W-2, 3, 3)
            patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 27).double()
            count += len(patches)
            total += patches.sum(0)
            products += patches.T @ patches
        covariance = (products - torch.outer(total, total) / count) / (count - 1)
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance)  # ascending
        scale = torch.rsqrt(eigenvalues + WHITENING_EPSILON)
        filters = (eigenvectors * scale).T[-WHITENED_DIRECTIONS:].reshape(-1, 3, 3, 3).float()
        self.whiten.weight.data = torch.cat([filters, -filters]).to(self.whiten.weight)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]  # this convolution has one
