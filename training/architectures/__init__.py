"""Network families, one file each; a recipe names one of `ARCHITECTURES`."""

from collections.abc import Callable

from training.architectures.network import Network
from training.architectures.plain_cnn import PlainCNN
from training.architectures.tutorial_cnn import TutorialCNN

ARCHITECTURES: dict[str, Callable[[int], Network]] = {
    "plain-cnn": lambda classes: PlainCNN(classes, widths=(64, 240, 256)),
    "tutorial-cnn": TutorialCNN,
}

__all__ = ["ARCHITECTURES", "Network"]
