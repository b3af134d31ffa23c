"""A training run at rest: the network, its optimiser and the step they have reached, to a checkpoint and back."""

from __future__ import annotations

from bisect import bisect
from dataclasses import replace

import torch
from torch import Tensor

from training.average import average
from training.checkpoint import Checkpoint, EpochRecord, Teacher, network_of, of_this_version
from training.data import TrainingData
from training.device import Precision, moved
from training.distill import Memory, Teachers, assign_roles
from training.errors import CheckpointError
from training.optim import OPTIMIZERS, Lookahead
from training.provenance import continued, provenance
from training.recipes import TrainConfig
from training.start import Start, on


class Run:
    """One training run: network, optimiser and the step they have reached."""

    def __init__(
        self,
        recipe: str,
        config: TrainConfig,
        data: TrainingData,
        device: torch.device,
        precision: Precision,
        teachers: tuple[Teacher, ...] = (),
    ) -> None:
        """Raises `CheckpointError` when `teachers` are not those that `config` asks for, or know other classes."""
        known = (teacher.learned_from for teacher in teachers if teacher.learned_from is not None)
        self.learned_from = torch.cat([data.hashes, *known]).unique()  # type: ignore[no-untyped-call]  # torch does not type it
        teachers = tuple(replace(teacher, learned_from=None) for teacher in teachers)  # it stands in `learned_from` now
        forgetting = (replace(teacher, answers=None) for teacher in teachers)  # a checkpoint would keep them
        self.teachers = teachers if config.inherit_answers else tuple(forgetting)
        self.roles = assign_roles(recipe, config, data, self.teachers)
        self.recipe, self.config, self.data = recipe, config, data
        self.device, self.precision = device, precision
        self.steps_per_epoch, self.images_per_step = data.batches(config.batch_size)
        self.total_steps = min(int(config.epochs * self.steps_per_epoch), config.max_steps or 2**62)
        self.images, self.labels = data.train.images.to(device), data.train.labels.to(device)
        self.step = 0
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=device)  # summed; to read it is to wait for it
        self.history: list[EpochRecord] = []
        self.provenance = provenance(device, precision)  # of the start: the source may change while this runs
        self.start = Start(config, data, device, precision, self.roles.start)
        self.model = self.start.network()
        networks = [on(device, network_of(teacher)) for teacher in self.roles.asked]
        self.ensemble = Teachers(networks, config.distill_temperature) if networks else None
        self.memory = self._memory()
        self.optimizer = OPTIMIZERS[config.optimizer](self.model, config)
        self.full_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.lookahead = Lookahead(self.model) if config.lookahead else None
        self.kept: list[dict[str, Tensor]] = []  # weights at the end of each lr schedule
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision is Precision.FP16)

    @property
    def cycle(self) -> tuple[int, int]:
        """The first step of the lr schedule that the next step is in, and the one after its last."""
        restarts = [self.steps_per_epoch * epoch for epoch in self.config.restarts]
        begins = [0, *(step for step in restarts if step < self.total_steps)]
        place = bisect(begins, self.step) - 1
        return begins[place], (*begins, self.total_steps)[place + 1]

    def end_cycle(self) -> None:
        """After the last step of an lr schedule: keep the weights, or make of all that were kept the final ones."""
        if self.lookahead:
            self.lookahead.finish()
        if not self.config.restarts:
            return
        self.kept.append({name: value.clone() for name, value in self.model.state_dict().items()})
        if self.step == self.total_steps:
            start = [self.start.network().state_dict()] * self.config.start_weight if self.roles.start else []
            batches = self.start.typical_batches()
            with self.precision.autocast(self.device):
                average(self.model, [*start, *self.kept], batches)

    def _memory(self) -> Memory | None:
        """What there is to be remembered, or is already, of what teachers say."""
        config = self.config
        if not config.view_cycle or not (self.ensemble or self.roles.remembered is not None):
            return None
        batches = config.view_cycle * self.steps_per_epoch
        memory = Memory(batches, self.images_per_step, len(self.data.labels), self.device)
        if self.roles.remembered is not None:
            memory.restore(self.roles.remembered)
        return memory

    @property
    def view(self) -> int:
        """Which batch of the view cycle comes next; without a cycle, which batch of the run."""
        cycle = self.config.view_cycle
        return self.step % (cycle * self.steps_per_epoch) if cycle else self.step

    @property
    def seconds(self) -> float:
        """What its steps have taken, without validation and checkpoints; a resumed epoch at its last part's rate."""
        steps = [
            min(self.steps_per_epoch, self.total_steps - (record.epoch - 1) * self.steps_per_epoch)
            for record in self.history
        ]
        return sum(
            count * self.images_per_step / record.images_per_second
            for count, record in zip(steps, self.history, strict=True)
        )

    def checkpoint(self) -> Checkpoint:
        """The run as it stands."""
        return Checkpoint(
            recipe=self.recipe,
            config=self.config,
            labels=self.data.labels,
            step=self.step,
            total_steps=self.total_steps,
            epoch_loss=float(self.epoch_loss),
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            lookahead=self.lookahead.slow if self.lookahead else None,
            grad_scaler=self.scaler.state_dict(),
            history=tuple(self.history),
            provenance=self.provenance,
            teachers=self.teachers,
            answers=self.memory.answers if self.memory and not self.config.inherit_answers else None,
            kept=tuple(self.kept) if self.step < self.total_steps else (),
            data=self.data.fingerprint,
            learned_from=self.learned_from,
        )

    def restore(self, saved: Checkpoint) -> None:
        """Go on from `saved`; raises `CheckpointError` when it belongs to other data, or to another version."""
        there = (self.total_steps, self.data.labels, self.data.fingerprint if saved.data else None)
        if (saved.total_steps, saved.labels, saved.data) != there:
            raise CheckpointError("The checkpoint was made with other data; resume with the data it was started on.")
        with of_this_version("The checkpoint"):
            self.model.load_state_dict(saved.model)
            self.optimizer.load_state_dict(saved.optimizer)
            if saved.grad_scaler:  # empty, where the format needed none
                self.scaler.load_state_dict(saved.grad_scaler)
            if self.lookahead and saved.lookahead is not None:
                self.lookahead.load(saved.lookahead)
            if self.memory and saved.answers is not None:
                self.memory.restore(saved.answers)
        if saved.learned_from is not None:  # its teachers no longer say what they learned from
            self.learned_from = saved.learned_from
        self.kept = [{name: moved(value, self.device) for name, value in each.items()} for each in saved.kept]
        self.epoch_loss.fill_(saved.epoch_loss)
        self.step, self.history = saved.step, list(saved.history)
        self.provenance = continued(saved.provenance, self.provenance)
