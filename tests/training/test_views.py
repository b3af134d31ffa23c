"""Six views of an image and one answer."""

from __future__ import annotations

import torch
from torch import Tensor

from training.views import six_views


def test_the_six_views_are_the_image_and_two_shifts_each_both_ways_round() -> None:
    seen: list[Tensor] = []

    def remember(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.zeros(len(images), 2)

    image = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).view(2, 4, 5, 3)
    six_views(remember, image)
    assert len(seen) == 6
    assert all((view.dtype, view.shape) == (image.dtype, image.shape) for view in seen)
    whole, mirrored, down, down_mirrored, up, up_mirrored = seen
    assert torch.equal(whole, image)
    assert torch.equal(down[:, 1:, 1:], image[:, :-1, :-1])
    assert torch.equal(up[:, :-1, :-1], image[:, 1:, 1:])
    for view, mirror in ((whole, mirrored), (down, down_mirrored), (up, up_mirrored)):
        assert torch.equal(view.flip(2), mirror)


def test_half_of_the_answer_is_the_unshifted_images() -> None:
    marks = iter([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    answer = six_views(lambda images: torch.full((len(images), 1), next(marks)), torch.zeros(3, 4, 4, 3).byte())
    assert answer.tolist() == [[(1 + 2) / 4 + (4 + 8 + 16 + 32) / 8]] * 3


def test_log_probabilities_and_logits_name_the_same_class() -> None:
    logits = torch.randn((6, 50, 10), generator=torch.Generator().manual_seed(0))
    images = torch.zeros(50, 4, 4, 3).byte()
    given, logs = iter(logits), iter(logits.log_softmax(2))
    assert torch.equal(
        six_views(lambda _: next(given), images).argmax(1), six_views(lambda _: next(logs), images).argmax(1)
    )
