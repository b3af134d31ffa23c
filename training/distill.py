"""Finished networks → targets for a new one, in place of labels (G. Hinton et al., 2015).

Student and teachers see the very same view of an image, and mixup makes new ones of them in every step: what is
learned is the teachers' function, between the training images as well as on them, where the teachers know every answer
by heart (L. Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.architectures import EXTENDS, Network
from training.checkpoint import Teacher
from training.data import TrainingData
from training.degrade import DEGRADATIONS
from training.errors import CheckpointError
from training.recipes import TrainConfig


class Teachers:
    """Networks whose answers, averaged over all of them and over both mirror images of a batch, are to be learned.

    Their logits are divided by `temperature` before the softmax; the student's must be too.
    """

    def __init__(self, networks: Sequence[Network], temperature: float = 1.0) -> None:
        self._networks, self._temperature = tuple(network.eval() for network in networks), temperature

    @torch.no_grad()
    def targets(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """float pixels 0 … 255 (N, 3, H, W) → probabilities (N, classes), of one teacher and one mirror image.

        Both are drawn anew for every batch. The gradient of the cross-entropy is linear in its target, so averaged
        over steps it is that of the whole ensemble, at the price of one forward pass.
        """
        place = int(torch.randint(2 * len(self._networks), (), generator=generator))
        logits: Tensor = self._networks[place // 2](pixels.flip(3) if place % 2 else pixels)
        return (logits.float() / self._temperature).softmax(1)


class Memory:
    """What the teachers said of each batch of a view cycle, so that they need to be asked only once.

    A teacher's forward pass may cost more than a small student's whole step. A run with the same views can learn what
    another remembers, and asks nobody.
    """

    def __init__(self, batches: int, batch_size: int, classes: int, device: torch.device) -> None:
        shape = (batches, batch_size, classes)
        self.answers = torch.full(shape, torch.nan, dtype=torch.float16, device=device)  # NaN: not asked yet
        self._known = [False] * batches  # the same without a look at the device

    def restore(self, answers: Tensor) -> None:
        """Know what `answers` of another `Memory` hold."""
        self.answers.copy_(answers)
        self._known = (~self.answers.isnan().flatten(1).any(1)).tolist()

    def knows(self, place: int) -> bool:
        """Whether the teachers have been asked about the batch at `place` of the cycle."""
        return self._known[place]

    def keep(self, place: int, answers: Tensor) -> None:
        """Remember `answers`, probabilities (N, classes), of the batch at `place` of the cycle."""
        self.answers[place] = answers
        self._known[place] = True

    def recall(self, place: int) -> Tensor:
        """Probabilities float32 (N, classes) for the batch at `place` of the cycle, which must be known."""
        return self.answers[place].float()


# settings that decide what a batch of a view cycle shows, and how soft the answers about it are
DECIDE_ANSWERS = ("seed", "batch_size", "image_size", "augmentations", "view_cycle", "distill_temperature")


@dataclass(frozen=True)
class Roles:
    """What a run's teachers are there for."""

    start: Teacher | None  # with whose weights it begins
    asked: tuple[Teacher, ...]  # who say what its images show
    remembered: Tensor | None  # or what the last one's teachers said of them


def assign_roles(recipe: str, config: TrainConfig, data: TrainingData, teachers: tuple[Teacher, ...]) -> Roles:
    """What `teachers` are to a run of `config` on `data`; raises `CheckpointError` where it can't learn from them."""
    if len(teachers) != len(config.teachers):
        expected = " and ".join(config.teachers) or "none"
        raise CheckpointError(
            f"Recipe {recipe} learns from {len(config.teachers)} finished runs ({expected}); "
            f"--teachers names {len(teachers)}."
        )
    teaching = teachers[0 if config.start_teaches else 1 :]
    if any(teacher.labels != data.labels for teacher in teaching):
        raise CheckpointError("The teachers were trained on other classes; train them on this data first.")
    if config.inherit_answers:
        _check_answers(recipe, config, data, teachers[-1])
    elif others := sorted({teacher.config.image_size for teacher in teaching} - {config.image_size}):
        raise CheckpointError(
            f"The teachers know images of {' and '.join(map(str, others))} pixels in height and width, and those of "
            f"this run have {config.image_size}; give it, or them, another --size."
        )
    if config.start_from_teacher:
        _check_start(recipe, config, teachers[0])
    return Roles(
        start=teachers[0] if config.start_from_teacher else None,
        asked=() if config.inherit_answers else teaching,
        remembered=teachers[-1].answers if config.inherit_answers else None,
    )


def _check_start(recipe: str, config: TrainConfig, start: Teacher) -> None:
    """Raise `CheckpointError` unless a run of `config` can begin with the weights of `start`."""
    if start.config.architecture not in (config.architecture, EXTENDS.get(config.architecture)):
        raise CheckpointError(
            f"The weights to begin with are those of a network of kind {start.config.architecture}, and recipe "
            f"{recipe} trains one of kind {config.architecture}; choose another start, or another recipe."
        )
    # norms are measured on pictures degraded as for it; some only hours from now
    if unknown := [name for name in start.config.degradations if name not in DEGRADATIONS]:
        raise CheckpointError(
            f"The first teacher was trained with {', '.join(unknown)}, which this version does not know; "
            "name another one first."
        )


def _check_answers(recipe: str, config: TrainConfig, data: TrainingData, teacher: Teacher) -> None:
    """Raise `CheckpointError` unless `teacher` remembers an answer for every view that a run of `config` will see."""
    if teacher.answers is None or bool(teacher.answers.isnan().any()):
        raise CheckpointError(
            f"Recipe {recipe} learns what the teachers of its last one said to it, and that one remembers no answers, "
            f"or not all; name the folder of a whole run of {config.teachers[-1]}."
        )
    differing = [name for name in DECIDE_ANSWERS if getattr(teacher.config, name) != getattr(config, name)]
    steps, images = data.batches(config.batch_size)
    counted = teacher.answers.shape == ((config.view_cycle or 0) * steps, images, len(data.labels))
    if differing or not counted or teacher.data not in (None, data.fingerprint):
        raise CheckpointError(
            f"The answers that {teacher.recipe} remembers are about other views than those of this run: "
            f"{', '.join(differing) or 'the training images'} must be the same."
        )
