"""A recipe's steps beside an ordinary PyTorch loop on the same network: images/s, in turn, in one run.

The ordinary loop is the one of most tutorials: a data set of single pictures, transformed one by one in the worker
processes of a `DataLoader`, float32, batches of 128, SGD with momentum. Each side lives in a process of its own, since
`training.process.keep_freed_memory` is for a whole process; the one that is not measured waits.
"""

from __future__ import annotations

import multiprocessing
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from training.architectures import ARCHITECTURES
from training.architectures.network import CIFAR10_MEAN, CIFAR10_STD
from training.data import Split, load_training_data
from training.device import choose_device, choose_precision
from training.errors import DataError, TrainingError, is_lack_of_memory
from training.loop import train_one_step
from training.process import keep_freed_memory
from training.recipes import TrainConfig
from training.run import Run

ORDINARY_BATCH = 128
WORKERS = 2
UNTIMED_IMAGES = (2 * WORKERS + 1) * ORDINARY_BATCH  # the loader has fetched all but one of these while it waited
Steps = Iterator[int]  # each `next` is one optimiser step; how many images it took


@dataclass(frozen=True)
class Side:
    """What one of the two processes does."""

    steps: Callable[[TrainConfig, Path, str, str], Steps]
    config: TrainConfig
    data: Path
    device: str
    precision: str


class Pictures(Dataset[tuple[Tensor, int]]):
    """Single images with the usual transforms: random crop of the padded picture, random flip, normalisation."""

    def __init__(self, split: Split) -> None:
        self._images, self._labels = split.images.numpy(), split.labels.tolist()
        self._mean, self._std = (torch.tensor(v).view(3, 1, 1) for v in (CIFAR10_MEAN, CIFAR10_STD))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = ImageOps.expand(Image.fromarray(self._images[index]), 4)
        left, top = random.randrange(9), random.randrange(9)
        picture = picture.crop((left, top, left + picture.width - 8, top + picture.height - 8))
        if random.random() < 0.5:
            picture = ImageOps.mirror(picture)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)
        return pixels.sub_(self._mean).div_(self._std), self._labels[index]


def ordinary_steps(config: TrainConfig, data: Path, device: str, _precision: str) -> Steps:
    """Endless steps of the ordinary loop on the architecture of `config`; raises `DataError` for less than a batch."""
    chosen, there = choose_device(device), load_training_data(data, config.image_size)
    if len(there.train) < ORDINARY_BATCH:
        raise DataError(
            f"There are {len(there.train)} images to learn from in {data}, and the ordinary loop takes "
            f"{ORDINARY_BATCH} in a step; measure on more."
        )
    model = ARCHITECTURES[config.architecture](len(there.labels), size=config.image_size).to(chosen).train()
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9, weight_decay=5e-4
    )
    loader = DataLoader(Pictures(there.train), ORDINARY_BATCH, shuffle=True, num_workers=WORKERS, drop_last=True)
    while True:
        for pixels, labels in loader:
            loss = nn.functional.cross_entropy(model.classify(pixels.to(chosen)), labels.to(chosen))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
            optimizer.step()
            loss.item()  # as such loops print it
            yield len(labels)


def recipe_steps(config: TrainConfig, data: Path, device: str, precision: str) -> Steps:
    """Endless steps of the recipe, as `convoy-train train` takes them."""
    keep_freed_memory()
    chosen = choose_device(device)
    there = load_training_data(data, config.image_size)
    run = Run("speed", config, there, chosen, choose_precision(precision, chosen))
    run.model.train()
    while True:
        for indices in torch.split(torch.randperm(len(run.data.train)), config.batch_size)[: run.steps_per_epoch]:
            if run.step == run.total_steps:
                run.step = 0
            train_one_step(run, indices, run.step // run.steps_per_epoch)
            yield len(indices)


def images_per_second(recipe: Side, ordinary: Side, rounds: int, images: int) -> list[tuple[float, float]]:
    """Of both sides, for each round in which either takes `images` images at least."""
    with _process(recipe) as one, _process(ordinary) as other:
        return [(_ask(one, images), _ask(other, images)) for _ in range(rounds)]


def table(measured: list[tuple[float, float]]) -> str:
    """Each round, the medians, and the median of the rounds' ratios."""
    rows = [(f"round {number}", *each) for number, each in enumerate(measured, 1)]
    rows.append(("median", *(statistics.median(side) for side in zip(*measured, strict=True))))
    lines = [f"{name:8} recipe {ours:8,.0f} images/s   ordinary {theirs:8,.0f} images/s" for name, ours, theirs in rows]
    return "\n".join([*lines, f"ratio    {statistics.median(ours / theirs for ours, theirs in measured):.2f}"])


def _ask(side: Connection, images: int) -> float:
    try:
        side.send(images)
        answer = side.recv()
    except (EOFError, ConnectionError) as exc:
        raise TrainingError(
            "One of the two processes that measure has ended in between; its reason is above, unless the machine's "
            "memory was too small for it."
        ) from exc
    if isinstance(answer, Exception):
        raise answer
    assert isinstance(answer, float)
    return answer


@contextmanager
def _process(side: Side) -> Iterator[Connection]:
    """A process that answers every number of images with the images/s of so many; it ends with the context."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(side, there))
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited, by loaders too: only the pipe's end ends them
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, handler)
    there.close()
    try:
        yield here
    finally:
        here.close()
        process.join()


def _serve(side: Side, connection: Connection) -> None:
    try:
        _measure(side, connection)
    except (EOFError, BrokenPipeError):  # nobody asks any more
        return
    except Exception as exc:
        if not isinstance(exc, (TrainingError, OSError)) and not is_lack_of_memory(exc):
            raise
        connection.send(exc)


def _measure(side: Side, connection: Connection) -> None:
    steps = side.steps(side.config, side.data, side.device, side.precision)
    while True:
        wanted = connection.recv()
        _take(steps, UNTIMED_IMAGES, connection)
        began = time.perf_counter()
        taken = _take(steps, wanted, connection)
        connection.send(taken / (time.perf_counter() - began))


def _take(steps: Steps, wanted: int, connection: Connection) -> int:
    """Go on until as many images as wanted are taken, and all is computed; how many that were.

    Raises `EOFError` once `connection` has ended.
    """
    taken = 0
    while taken < wanted:
        if connection.poll():  # nothing is sent meanwhile
            connection.recv()
        taken += next(steps)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return taken
