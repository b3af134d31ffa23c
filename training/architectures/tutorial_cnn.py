"""The small CNN that the well-known CIFAR-10 tutorials build: three convolutions, two poolings, two dense layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from training.architectures.network import Network, Weights
from training.errors import ArchitectureError


class TutorialCNN(Network):
    """Conv 3×3 32 → pool → Conv 64 → pool → Conv 64 → Dense 64 → Dense, with valid padding and ReLU.

    Pixels are only scaled to 0 … 1. 122,570 parameters with ten classes and 32 × 32 pixels.
    """

    def __init__(self, classes: int = 10, *, size: int = 32) -> None:
        if size != 32:
            raise ArchitectureError("The tutorials' network takes 32 × 32 pixels only; choose another recipe.")
        super().__init__(mean=(0, 0, 0), std=(1, 1, 1))
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(1024, 64),
            nn.ReLU(),
            nn.Linear(64, classes),
        )

    def classify(self, x: Tensor) -> Tensor:
        """See `Network.classify`."""
        logits: Tensor = self.layers(x)
        return logits

    @property
    def last_layer(self) -> nn.Linear:
        """See `Network.last_layer`."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        return last

    def inference_layers(self) -> Iterator[nn.Module]:
        """See `Network.inference_layers`: there is nothing to fold."""
        yield from copy.deepcopy(self.layers)

    @torch.no_grad()
    def adopt(self, layers: Sequence[Weights]) -> None:
        """See `Network.adopt`."""
        mine = (layer for layer in self.layers if isinstance(layer, nn.Conv2d | nn.Linear))
        for layer, (weight, bias) in zip(mine, layers, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)  # type: ignore[union-attr]  # they all have one
