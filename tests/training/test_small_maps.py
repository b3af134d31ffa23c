"""Small maps computed side by side: the same numbers as one after the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from training.architectures import small_maps
from training.architectures.small_maps import Convolution, side_by_side

Convolve = Callable[[Tensor], Tensor]


def made(inputs: int = 5, outputs: int = 7) -> Convolution:
    torch.manual_seed(0)
    return Convolution(inputs, outputs)


def maps(n: int, side: int) -> Tensor:
    return torch.randn(n, 5, side, side).to(memory_format=torch.channels_last)


def gradients(convolve: Convolve, convolution: Convolution, x: Tensor) -> list[Tensor]:
    """Of the input and the filters, each value of the output weighed otherwise."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = convolve(x)
    weights = torch.arange(y.numel()).reshape(y.shape) / y.numel()
    return list(torch.autograd.grad((y * weights).sum(), [x, convolution.weight]))


@pytest.mark.parametrize("n", [1, 7, 12, 16, 48])
@pytest.mark.parametrize("side", [1, 3, 7])
def test_a_row_of_maps_has_the_same_values_and_gradients(n: int, side: int) -> None:
    convolution, x = made().double(), maps(n, side).double()
    assert_close(side_by_side(convolution, x), convolution(x))
    row = gradients(lambda x: side_by_side(convolution, x), convolution, x)
    assert_close(row, gradients(convolution, convolution, x))


@pytest.mark.parametrize(
    ("amx", "bf16", "side", "in_rows"),
    [
        (True, True, 3, True),
        (True, True, 7, True),
        (True, True, 8, False),
        (True, False, 3, False),
        (False, True, 3, False),
    ],
)
def test_only_where_it_is_quicker(
    amx: bool, bf16: bool, side: int, in_rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[tuple[int, ...]] = []

    def noted(convolve: Convolve, x: Tensor) -> Tensor:
        rows.append(x.shape)
        return side_by_side(convolve, x)

    monkeypatch.setattr(small_maps, "HAS_AMX", amx)
    monkeypatch.setattr(small_maps, "side_by_side", noted)
    convolution, x = made(), maps(16, side)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        y = convolution(x)
    assert rows == ([x.shape] if in_rows else [])
    assert_close(y.float(), nn.functional.conv2d(x, convolution.weight, padding=1), rtol=0, atol=0.05)
