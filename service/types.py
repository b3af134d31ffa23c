"""The arrays that pass between rooms."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

RGBImage: TypeAlias = npt.NDArray[np.uint8]  # (H, W, 3), any size
Rows: TypeAlias = npt.NDArray[np.uint8]  # (N, H, W, 3), the model's size, contiguous
Probabilities: TypeAlias = npt.NDArray[np.float32]  # (N, classes), rows sum to 1
Run: TypeAlias = Callable[[Rows], Awaitable[Probabilities]]  # what an engine does with a batch
