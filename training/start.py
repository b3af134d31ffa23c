"""Recipe, data and perhaps a teacher → the network before its first step, and what the statistics of norms are of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from training.architectures import ARCHITECTURES, Network
from training.checkpoint import Teacher
from training.data import TrainingData
from training.degrade import degrade
from training.device import Precision
from training.norms import folded, unfold
from training.recipes import TrainConfig

WHITENING_IMAGES, WHITENING_BATCH = 5_000, 16
STATISTICS_IMAGES = 10_000
BATCH_PIXELS = 500 * 32 * 32  # of images that are run together to learn nothing, and 8 images at least


@dataclass(frozen=True)
class Start:
    """Where a run begins: with `teacher`'s weights, or in its recipe's seeded state."""

    config: TrainConfig
    data: TrainingData
    device: torch.device
    precision: Precision
    teacher: Teacher | None = None

    def network(self) -> Network:
        """A new one each time, always the same."""
        network = build_network(self.config, self.data, self.device)
        if self.teacher:  # strictly, but for what it has that its teacher does not: see `EXTENDS`
            weights = self.teacher.model
            if self.teacher.labels != self.data.labels:  # what it knows of pictures serves for other classes, too
                own = set(map(id, network.last_layer.parameters()))
                fresh = {name for name, parameter in network.named_parameters() if id(parameter) in own}
                weights = {name: weight for name, weight in weights.items() if name not in fresh}
            network.load_state_dict({**network.state_dict(), **weights})
            if folded(network):
                with self.precision.autocast(self.device):
                    unfold(network, self.typical_batches())
        return network

    def typical_batches(self) -> Iterator[Tensor]:
        """float pixels (N, 3, H, W) of the first images, every other degraded as for the network at the start."""
        config = self.teacher.config if self.teacher else self.config
        clean, other = torch.chunk(self.data.train.images[:STATISTICS_IMAGES].to(self.device), 2)
        generator = torch.Generator().manual_seed(config.seed)
        degraded = [degrade(batch, config.degradations, generator) for batch in batches_of(other)]
        both = torch.stack([clean[: len(other)], torch.cat(degraded)], 1).flatten(0, 1)
        return map(pixels, batches_of(both))


def build_network(config: TrainConfig, data: TrainingData, device: torch.device) -> Network:
    """The recipe's network in its seeded initial state, channels last."""
    torch.manual_seed(config.seed)
    model = ARCHITECTURES[config.architecture](len(data.labels), size=config.image_size)
    with torch.no_grad():
        batches = torch.split(data.train.images[:WHITENING_IMAGES], WHITENING_BATCH)
        model.initialise((pixels(batch) - model.mean) / model.std for batch in batches)
    return on(device, model)


def batches_of(images: Tensor) -> tuple[Tensor, ...]:
    """uint8 (N, H, W, 3) → the same, as many together as memory has room for: fewer where they are larger."""
    _, height, width, _ = images.shape
    return torch.split(images, max(8, BATCH_PIXELS // (height * width)))


def pixels(images: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) → float32 0 … 255 (N, 3, H, W), channels last in memory."""
    return images.permute(0, 3, 1, 2).float()


def on(device: torch.device, model: Network) -> Network:
    """The network on `device`, its weights channels last."""
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # torch's types leave this argument out
