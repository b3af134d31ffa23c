"""Network families, one file each; a recipe names one of `ARCHITECTURES`."""

from collections.abc import Callable

from training.architectures.network import Network
from training.architectures.plain_cnn import PlainCNN
from training.architectures.tutorial_cnn import TutorialCNN

ARCHITECTURES: dict[str, Callable[[int], Network]] = {
    "plain-cnn": lambda classes: PlainCNN(classes, widths=(64, 240, 256)),  # 114.6 million multiply-accumulates
    "plain-cnn-deep": lambda classes: PlainCNN(classes, widths=(64, 160, 256), depths=(2, 3, 3)),  # 97.7 million
    "plain-cnn-small": lambda classes: PlainCNN(classes, widths=(32, 80, 128), depths=(2, 3, 3)),  # 29.1 million
    "excited-cnn": lambda classes: PlainCNN(classes, (64, 160, 256), (2, 3, 3), excited=True),  # 97.7 million
    "excited-cnn-small": lambda classes: PlainCNN(classes, (32, 80, 128), (2, 3, 3), excited=True),  # 29.2 million
    "excited-cnn-wide": lambda classes: PlainCNN(classes, (128, 384, 512), (3, 3, 3), excited=True),  # 459.2 million
    "tutorial-cnn": TutorialCNN,
}

# an architecture → the one that it is until what it has besides has learned something
EXTENDS = {"excited-cnn": "plain-cnn-deep", "excited-cnn-small": "plain-cnn-small"}

__all__ = ["ARCHITECTURES", "EXTENDS", "Network"]
