"""An image → several views of it → one answer (test-time augmentation): as records are measured; never served."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def six_views(log_probabilities: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The weighted mean of what is said of six views of uint8 images (N, H, W, 3): (N, classes), larger is likelier.

    Half of the image and its mirror image, half of both shifted by a pixel along either diagonal: the evaluation of
    K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (2024). Logits do as well as log-probabilities: what
    they differ by is the same for every class.
    """
    _, height, width, _ = images.shape
    padded = F.pad(images.permute(0, 3, 1, 2).float(), (1, 1, 1, 1), mode="reflect").byte().permute(0, 2, 3, 1)
    shifted = (padded[:, :height, :width], padded[:, 2:, 2:])
    weighted = ((images, 0.25), *((view, 0.125) for view in shifted))
    return torch.stack(
        [share * log_probabilities(v.contiguous()) for view, share in weighted for v in (view, view.flip(2))]
    ).sum(0)
