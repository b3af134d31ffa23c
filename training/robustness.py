"""What a model answers, asked about damaged images → how often it is still right."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
    answers: Mapping[Precision, Answer], images: Split, *, split: SplitName, command: str
) -> tuple[Robustness, ...]:
    """Accuracy of each file on all of `images`: as JPEG 75 4:2:0, in grey, and under each corruption and severity.

    Images are damaged once and shown to every file.
    """
    with tqdm(total=2 + len(CORRUPTIONS) * len(SEVERITIES), unit="set", leave=False, disable=None) as progress:

        def accuracies(damaged: Tensor) -> dict[Precision, float]:
            progress.update()
            return {precision: _accuracy(answer, damaged, images.labels) for precision, answer in answers.items()}

        jpeg_75 = accuracies(reencode(images.images, [JPEG_QUALITY] * len(images)))
        in_grey = accuracies(grey(images.images, torch.Generator()).contiguous())
        corrupted = {
            name: [accuracies(corrupt(images.images, name, severity)) for severity in SEVERITIES]
            for name in CORRUPTIONS
        }
    return tuple(
        Robustness(
            split=split,
            precision=precision,
            images=len(images),
            jpeg_75=jpeg_75[precision],
            grey=in_grey[precision],
            corruptions={name: tuple(each[precision] for each in found) for name, found in corrupted.items()},
            command=command,
        )
        for precision in answers
    )


def _accuracy(answer: Answer, images: Tensor, labels: Tensor) -> float:
    return float((torch.from_numpy(answer(images.numpy()).argmax(1)) == labels).double().mean())
