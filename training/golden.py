"""Golden samples: generated pictures and the probabilities that torch, or a file less exact than it, gave for them.

The service replays them before it lets a model answer, so that a damaged file, a wrong build or a broken provider
shows before the first request. No image of any data set is among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from service.metadata import Precision
from training.model_files import ModelFile

FILE_NAME, PICTURES = "golden.npz", 64


def pictures(height: int, width: int, count: int = PICTURES, seed: int = 0) -> npt.NDArray[np.uint8]:
    """uint8 (count, height, width, 3): seeded colour gradients with discs and boxes on them, and some noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    images = np.empty((count, height, width, 3), np.float64)
    for image in images:
        slope = random.uniform(-120, 120, (2, 3))
        image[:] = random.uniform(60, 200, 3) + slope[0] * (y[..., None] - 0.5) + slope[1] * (x[..., None] - 0.5)
        for _ in range(random.integers(1, 4)):
            cy, cx, radius = *random.uniform(0.2, 0.8, 2), random.uniform(0.1, 0.35)
            disc = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
            box = (abs(y - cy) < radius) & (abs(x - cx) < radius / 2)
            image[disc if random.random() < 0.5 else box] = random.uniform(0, 255, 3)
        image += random.normal(0, random.uniform(0, 20), image.shape)
    return images.clip(0, 255).round().astype(np.uint8)


def write(
    folder: Path, images: npt.NDArray[np.uint8], probabilities: Tensor, files: Mapping[Precision, ModelFile]
) -> Path:
    """Write `images`, their exact `probabilities`, and what each file less exact than fp32 gives; returns the file."""
    arrays = {"images": images, "probabilities": probabilities.numpy()}
    others = {f"probabilities_{kind}": file.probabilities(images) for kind, file in files.items() if kind != "fp32"}
    path = folder / FILE_NAME
    np.savez_compressed(path, **arrays, **others)  # type: ignore[arg-type]  # none of them is called `allow_pickle`
    return path
