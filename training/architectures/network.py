"""What every architecture is: pixels → logits, and the same function again as plain layers for export."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

Weights = tuple[Tensor, Tensor]  # of a convolution or a linear layer: weight and bias

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)  # of the pixels, not the mean of per-image ones that is often copied


class Network(nn.Module):
    """float pixels 0 … 255 (N, 3, H, W) → logits (N, classes); normalisation is part of the network."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return self.classify((pixels - self.mean) / self.std)

    @abstractmethod
    def classify(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) → logits (N, classes)."""

    @property
    @abstractmethod
    def last_layer(self) -> nn.Linear:
        """The one that knows the classes; the others only know what pictures consist of."""

    @abstractmethod
    def inference_layers(self) -> Iterator[nn.Module]:
        """The layers of `classify` in eval mode, batch normalisation folded, as new modules.

        The first is an unpadded `Conv2d` and the last a `Linear`, so that export can fold the normalisation
        into the one and temperature and class biases into the other. All are of kinds that `training.onnx_layers`
        knows the ONNX of.
        """

    @abstractmethod
    def adopt(self, layers: Sequence[Weights]) -> None:
        """Become the function of `inference_layers` whose convolutions and linear layers have these weights.

        Raises `ValueError` or `RuntimeError` when they are another architecture's.
        """

    def initialise(self, batches: Iterable[Tensor]) -> None:
        """Set weights that depend on the data: batches of normalised images, (N, 3, H, W)."""
