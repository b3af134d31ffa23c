"""Training runs small enough for tests, which are to use the fixture `narrow_networks` and `small` data."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from training.architectures.network import Network, Weights
from training.checkpoint import Teacher
from training.data import Split, TrainingData
from training.device import Precision
from training.recipes import RECIPES, TrainConfig
from training.run import Run
from training.start import build_network

CPU = torch.device("cpu")
TEACHERS = 2  # of a recipe's four or five: each is asked of every image twice
SIZE = 16  # of images: a quarter of the work
SHORT = {
    "cifar10": replace(
        RECIPES["cifar10"], architecture="plain-cnn", epochs=3, batch_size=50, restarts=(1, 2), start_weight=3
    ),
    "cifar10-teacher-44": replace(RECIPES["cifar10-teacher-44"], epochs=2, batch_size=25, max_steps=22),
    "cifar10-plain": replace(RECIPES["cifar10-plain"], epochs=2, batch_size=25, max_steps=22),
    "cifar10-small-robust": replace(
        RECIPES["cifar10-small-robust"], epochs=4, batch_size=50, view_cycle=2, max_steps=30
    ),
    "tutorial": replace(RECIPES["tutorial"], architecture="plain-cnn", epochs=3, batch_size=75),
}
SMALL = {
    recipe: replace(config, teachers=config.teachers[:TEACHERS], image_size=SIZE) for recipe, config in SHORT.items()
}


def small(data: TrainingData) -> TrainingData:
    """The generated data, less of it: 450 images of half the size to learn from and 50 to validate on."""

    def some(split: Split) -> Split:
        return Split(split.images[: len(split) // 4, ::2, ::2].contiguous(), split.labels[: len(split) // 4])

    return replace(data, train=some(data.train), validation=some(data.validation))


def run(
    recipe: str, data: TrainingData, config: TrainConfig | None = None, precision: Precision = Precision.FP32
) -> Run:
    config = config or SMALL[recipe]
    teachers = tuple(untrained_teacher(seed, data) for seed in range(len(config.teachers)))
    return Run(recipe, config, data, CPU, precision, teachers)


def untrained_teacher(
    seed: int, data: TrainingData, architecture: str = "plain-cnn", image_size: int = SIZE
) -> Teacher:
    config = replace(SMALL["cifar10-teacher-44"], architecture=architecture, seed=seed, image_size=image_size)
    return Teacher("untrained", config, data.labels, build_network(config, data, CPU).state_dict(), {})


def same_weights(one: Run, other: Run) -> bool:
    a, b = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def exported_weights(network: Network) -> list[Weights]:
    """What an exported file has of `network`, for `Network.adopt`."""
    parts = [part for layer in network.inference_layers() for part in layer.modules()]
    return [(p.weight, p.bias) for p in parts if isinstance(p, nn.Conv2d | nn.Linear) and p.bias is not None]
