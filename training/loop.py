"""Training data + recipe → trained network, stoppable at any step and resumable to the same weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from training import checkpoint as checkpoints
from training.architectures import Network
from training.augment import AUGMENTATIONS, View
from training.checkpoint import EpochRecord
from training.data import Split
from training.degrade import degrade
from training.device import Precision, moved
from training.errors import Interrupted
from training.optim import LR_SCHEDULES, Lookahead
from training.process import keep_freed_memory, stop_requests
from training.progress import Progress
from training.run import Run
from training.start import batches_of, pixels

SEED_STRIDE = 2654435761  # 2³² / the golden ratio: its multiples modulo 2³² keep apart
VIEW, DEGRADATION = 0, 1 << 31  # where in 2³² a stream of random numbers begins; an epoch's order is of the views'


def train(run: Run, folder: Path, time_budget_s: float = math.inf) -> Network:
    """Do the steps that are left, with a checkpoint in `folder` after each epoch.

    Raises `CheckpointError` at once when `folder` can't be written, or another process trains or has trained into
    it; `Interrupted` after a signal to stop or `time_budget_s`, once a checkpoint of the very last step is written.
    """
    keep_freed_memory()
    progress = Progress(run.steps_per_epoch, run.total_steps, run.step)
    try:
        with checkpoints.claimed(folder), stop_requests(time_budget_s) as stop_requested:
            checkpoints.check_newest(folder, run.step)
            while run.step < run.total_steps and not stop_requested():
                finished = train_one_epoch(run, progress, stop_requested)
                checkpoints.save(run.checkpoint(), folder)
                if finished:  # and saved: what is shown is there
                    progress.epoch(finished, run.step, run.images_per_step / finished.images_per_second)
            if not run.step:  # stopped before the first, and told to go on all the same
                checkpoints.save(run.checkpoint(), folder)
    finally:
        progress.close()
    if run.step < run.total_steps:
        raise Interrupted(f"Stopped after {run.step:,} of {run.total_steps:,} steps")
    return run.model


def train_one_epoch(run: Run, progress: Progress, stop_requested: Callable[[], bool]) -> EpochRecord | None:
    """Train to the end of the current epoch, or until a stop is requested; record and return a finished epoch."""
    began, first = time.perf_counter(), run.step
    epoch = run.step // run.steps_per_epoch
    views_epoch = run.view // run.steps_per_epoch
    order = torch.randperm(len(run.data.train), generator=_generator(run.config.seed, views_epoch, VIEW))
    _, end = run.cycle
    run.model.train()
    while run.step < run.total_steps:
        place = run.step % run.steps_per_epoch
        indices = order[place * run.config.batch_size : (place + 1) * run.config.batch_size]
        run.epoch_loss += train_one_step(run, indices, epoch)
        progress.step(run.step, lambda done=place + 1: float(run.epoch_loss) / done, len(indices))  # type: ignore[misc]  # mypy infers no lambda with a default
        if place + 1 == run.steps_per_epoch or run.step == run.total_steps:
            if run.step == end:
                run.end_cycle()
            loss = float(run.epoch_loss) / (place + 1)  # waits for the device, and so must come before the clock
            seconds_per_step = (time.perf_counter() - began) / (run.step - first)
            validation = run.data.validation
            accuracy = evaluate(run.model, validation, run.device, run.precision) if len(validation) else None
            run.history.append(EpochRecord(epoch + 1, loss, accuracy, len(indices) / seconds_per_step))
            run.epoch_loss.zero_()
            return run.history[-1]
        if stop_requested():
            return None
    return None


def train_one_step(run: Run, indices: Tensor, epoch: int) -> Tensor:
    """One optimiser step on the training images `indices`; returns the mean loss before it, on the device.

    Nothing in it waits for the device, so that this computes while the next step is prepared.
    """
    config, (begin, end) = run.config, run.cycle
    through = (run.step - begin) / (end - begin)
    images, targets = next_batch(run, indices)
    factor = LR_SCHEDULES[config.lr_schedule](through)
    for group, lr in zip(run.optimizer.param_groups, run.full_lrs, strict=True):
        group["lr"] = lr * factor
    if (whiten := getattr(run.model, "whiten", None)) is not None:
        whiten.bias.requires_grad = epoch < config.whiten_bias_epochs  # then nothing behind it needs a gradient either
    with run.precision.autocast(run.device):
        logits = run.model(pixels(images))
    temperature = config.distill_temperature
    loss = nn.functional.cross_entropy(logits.float() / temperature, targets, label_smoothing=config.label_smoothing)
    loss = temperature**2 * loss  # or the gradient would shrink by as much
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch does not type it
    with run.precision.autocast(run.device):  # in that format, too, are Muon's products of matrices
        run.scaler.step(run.optimizer)
    run.scaler.update()
    run.step += 1
    if run.lookahead and run.step % Lookahead.INTERVAL == 0:
        run.lookahead.step(through)
    return loss.detach()


def next_batch(run: Run, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, H, W, 3) as the network is to see them next, and its targets: labels or probabilities."""
    seed, there = run.config.seed, moved(indices, run.device)
    generator = _generator(seed, run.view, VIEW)
    view = View(indices, run.view // run.steps_per_epoch, seed, generator)
    images, labels = run.images[there], run.labels[there]
    for name in run.config.augmentations:
        images = AUGMENTATIONS[name](images, view)
    targets = _targets(run, images, labels, view)
    anew = _generator(seed, run.step, DEGRADATION)  # whether or not the view has been seen before
    return degrade(images, run.config.degradations, anew), targets


def _targets(run: Run, images: Tensor, labels: Tensor, view: View) -> Tensor:
    """What is to be learned of `images`: what teachers say of them, or else what is to be seen of their labels."""
    if run.memory and run.memory.knows(run.view):
        return run.memory.recall(run.view)
    if not run.ensemble:
        return view.targets(labels, len(run.data.labels)) if view.mixed else labels
    with run.precision.autocast(run.device):
        said = run.ensemble.targets(pixels(images), view.generator)
    if not run.memory:
        return said
    run.memory.keep(run.view, said)
    return run.memory.recall(run.view)  # rounded, as from now on


def evaluate(model: nn.Module, split: Split, device: torch.device, precision: Precision) -> float:
    """Single-view accuracy of `model` on `split`."""
    return float((logits_of(model, split.images, device, precision).argmax(1) == split.labels).double().mean())


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, device: torch.device, precision: Precision) -> Tensor:
    """Logits float32 (N, classes) on the CPU for uint8 images (N, H, W, 3); the model is put into eval mode."""
    model.eval()
    batches = []
    for batch in batches_of(images):
        with precision.autocast(device):
            batches.append(model(pixels(batch.to(device))).float().cpu())
    return torch.cat(batches)


def _generator(seed: int, counter: int, stream: int) -> torch.Generator:
    """Random numbers as a pure function of where in the run we are: torch's generator looks at 32 bits of its seed."""
    return torch.Generator().manual_seed((seed * SEED_STRIDE + stream + counter) % (1 << 32))
