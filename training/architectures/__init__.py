"""Network families, one file each; a recipe names one of `ARCHITECTURES`."""

from functools import partial
from typing import Protocol

from training.architectures.network import Network
from training.architectures.plain_cnn import PlainCNN
from training.architectures.tutorial_cnn import TutorialCNN


class Build(Protocol):
    """Makes a network for images of `size` × `size` pixels; raises `ArchitectureError` where it can't be that size."""

    def __call__(self, classes: int, *, size: int = 32) -> Network: ...


ARCHITECTURES: dict[str, Build] = {  # with their multiply-accumulates at 32 × 32 pixels and ten classes
    "plain-cnn": partial(PlainCNN, widths=(64, 240, 256)),  # 114.6 million
    "plain-cnn-deep": partial(PlainCNN, widths=(64, 160, 256), depths=(2, 3, 3)),  # 97.7 million
    "plain-cnn-small": partial(PlainCNN, widths=(32, 80, 128), depths=(2, 3, 3)),  # 29.1 million
    "excited-cnn": partial(PlainCNN, widths=(64, 160, 256), depths=(2, 3, 3), excited=True),  # 97.7 million
    "excited-cnn-small": partial(PlainCNN, widths=(32, 80, 128), depths=(2, 3, 3), excited=True),  # 29.2 million
    "excited-cnn-wide": partial(PlainCNN, widths=(128, 384, 512), depths=(3, 3, 3), excited=True),  # 459.2 million
    "speed-cnn": partial(PlainCNN, widths=(64, 256, 256), patch=2, directions=12, smooth=True),  # 118.1 million
    "tutorial-cnn": TutorialCNN,
}

# an architecture → a plainer one, which computes the same until what that lacks has learned something
EXTENDS = {"excited-cnn": "plain-cnn-deep", "excited-cnn-small": "plain-cnn-small"}

__all__ = ["ARCHITECTURES", "EXTENDS", "Network"]
