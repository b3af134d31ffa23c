"""The first convolution's filters, made of the pictures: what their pixels have in common needs no learning."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

EPSILON = 5e-4  # added to each variance: what hardly varies is noise, and is not to be blown up to the size of the rest


def whitening_filters(batches: Iterable[Tensor], size: int, directions: int) -> Tensor:
    """Filters (`directions`, C, `size`, `size`) whose outputs for images (N, C, H, W) are uncorrelated, of variance 1.

    They are the eigenvectors of the patches' covariance with the largest eigenvalues, each over the root of its own.
    Only one batch's patches are there at a time: they take 8 `size`² times the memory of the pictures' bytes.
    """
    count, total, products = 0, torch.zeros(()).double(), torch.zeros(()).double()
    for images in batches:
        patches = images.unfold(2, size, 1).unfold(3, size, 1)  # (N, C, H - size + 1, W - size + 1, size, size)
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2).double()
        count += len(patches)
        total = total + patches.sum(0)
        products = products + patches.T @ patches
    covariance = (products - torch.outer(total, total) / count) / (count - 1)
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)  # ascending
    filters: Tensor = (eigenvectors * torch.rsqrt(eigenvalues + EPSILON)).T[-directions:]
    return filters.reshape(directions, -1, size, size).float()
