"""Finished networks → targets for a new one, in place of labels (G. Hinton et al., 2015).

Student and teachers see the very same pixels, and mixup makes new ones of them in every step: what is learned is the
teachers' function, between the training images as well as on them, where the teachers know every answer by heart
(L. Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", 2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.architectures import Network


class Teachers:
    """Networks whose mean over each other and over both mirror images of a batch is to be learned."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = tuple(network.eval() for network in networks)

    @torch.no_grad()
    def targets(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """float pixels 0 … 255 (N, 3, H, W) → probabilities (N, classes), of one teacher and one mirror image.

        Both are drawn anew for every batch. The gradient of the cross-entropy is linear in its target, so in the mean
        over steps it is that of the whole ensemble, at the price of one forward pass.
        """
        place = int(torch.randint(2 * len(self._networks), (), generator=generator))
        logits: Tensor = self._networks[place // 2](pixels.flip(3) if place % 2 else pixels)
        return logits.float().softmax(1)
