"""What a model answers, asked about damaged images → how often it is still right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from service.metadata import Precision, Robustness, SplitName
from training.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from training.data import Split
from training.degrade import grey, reencode

JPEG_QUALITY = 75

Answer = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]  # (N, H, W, 3) → probabilities (N, classes)


def measure_robustness(
    answer: Answer, images: Split, *, split: SplitName, precision: Precision, command: str
) -> Robustness:
    """Accuracy on all of `images`, re-encoded as JPEG 75 4:2:0, in grey, and under each corruption and severity."""
    with tqdm(total=2 + len(CORRUPTIONS) * len(SEVERITIES), unit="set", leave=False, disable=None) as progress:

        def accuracy(damaged: Tensor) -> float:
            progress.update()
            predicted = torch.from_numpy(answer(damaged.numpy()).argmax(1))
            return float((predicted == images.labels).double().mean())

        return Robustness(
            split=split,
            precision=precision,
            images=len(images),
            jpeg_75=accuracy(reencode(images.images, [JPEG_QUALITY] * len(images))),
            grey=accuracy(grey(images.images, torch.Generator()).contiguous()),
            corruptions={
                name: tuple(accuracy(corrupt(images.images, name, severity)) for severity in SEVERITIES)
                for name in CORRUPTIONS
            },
            command=command,
        )
