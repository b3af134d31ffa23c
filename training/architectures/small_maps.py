"""3×3 convolutions whose small maps are computed side by side where that is quicker: on CPUs with AMX, in bf16."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HAS_AMX = bool(torch.cpu.get_capabilities().get("amx_bf16"))
LARGEST = 7  # pixels of a side: of 15, a row of maps takes longer than one map after the other
AT_ONCE = 16  # maps in a row


class Convolution(nn.Conv2d):
    """3×3, without bias, its inputs padded by one pixel: same height and width out as in.

    oneDNN is slow with small maps there, above all in the gradients of the filters. On two cores of a Xeon, rows of
    16 maps took a sixth of the time with 3 × 3 pixels (512 channels, forward and backward), and two thirds of it with
    7 × 7. In float32 and without AMX, rows of maps of 7 × 7 took longer than one map after the other.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H, W)."""
        bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        if HAS_AMX and bf16 and x.device.type == "cpu" and x.shape[3] <= LARGEST:
            return side_by_side(super().forward, x)
        return super().forward(x)


def side_by_side(convolve: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`convolve(x)` for maps (N, C, H, W), in rows of as many of them as divide N, a column of zeros behind each."""
    n, channels, height, width = x.shape
    at_once = math.gcd(n, AT_ONCE)
    maps = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, 1))  # (N, H, W + 1, C), as it is in memory
    apart = maps.view(-1, at_once, height, width + 1, channels)
    row = apart.transpose(1, 2).reshape(-1, height, at_once * (width + 1), channels)
    convolved = convolve(row.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    apart = convolved.reshape(-1, height, at_once, width + 1, convolved.shape[3])[:, :, :, :width].transpose(1, 2)
    return apart.reshape(n, height, width, -1).permute(0, 3, 1, 2)
