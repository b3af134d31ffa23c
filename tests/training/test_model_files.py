"""Gates: a file that computes something else, or is right less often, is refused. The rest is in test_export."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from service.metadata import Evaluation, Precision
from training.architectures import ARCHITECTURES
from training.architectures.tutorial_cnn import TutorialCNN
from training.calibrate import Calibrator
from training.data import Split, load_training_data
from training.errors import ExportError
from training.model_files import ModelFile, check_accuracy, check_agreement, write_files


def evaluation(precision: Precision, accuracy: float, images: int = 5_000) -> Evaluation:
    return Evaluation(
        split="validation",
        precision=precision,
        images=images,
        accuracy=accuracy,
        nll=0.2,
        brier=0.1,
        ece=0.01,
        ece_uncalibrated=0.02,
        class_accuracy={},
        command="",
    )


def test_an_int8_file_may_lose_two_tenths_of_a_point() -> None:
    check_accuracy((evaluation("fp32", 0.9432), evaluation("fp16", 0.9434), evaluation("int8", 0.9412)))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_file_that_loses_more_is_refused(precision: Precision) -> None:
    with pytest.raises(ExportError, match=rf"The {precision} file is right about 94\.10%.*nothing was written"):
        check_accuracy((evaluation("fp32", 0.9432), evaluation(precision, 0.9410)))


def test_of_few_images_three_may_be_lost() -> None:
    check_accuracy((evaluation("fp32", 0.5, images=200), evaluation("int8", 0.485, images=200)))
    with pytest.raises(ExportError, match=r"more than 1\.5% lost"):
        check_accuracy((evaluation("fp32", 0.5, images=200), evaluation("int8", 0.48, images=200)))


def test_accuracy_that_is_no_number_is_refused() -> None:
    broken = evaluation("int8", 0.9).model_copy(update={"accuracy": float("nan")})
    with pytest.raises(ExportError, match="int8 file"):
        check_accuracy((evaluation("fp32", 0.9), broken))


def test_a_network_that_answers_every_image_alike_is_refused(generated_data: Path, tmp_path: Path) -> None:
    network = TutorialCNN()
    for parameter in network.parameters():
        parameter.data.zero_()
    data = load_training_data(generated_data)
    with pytest.raises(ExportError, match="the same answer"):
        write_files(tmp_path, network, data, data.validation, {})
    assert not list(tmp_path.glob("*.onnx"))


def test_a_network_whose_answers_are_no_numbers_is_refused(generated_data: Path, tmp_path: Path) -> None:
    network = ARCHITECTURES["plain-cnn"](10)
    for parameter in network.parameters():
        parameter.data.fill_(torch.nan)
    data = load_training_data(generated_data)
    few = Split(data.validation.images[:2], data.validation.labels[:2])
    with pytest.raises(ExportError, match="answers are no numbers"):
        write_files(tmp_path, network, replace(data, train=few, validation=few), few, {})
    assert not list(tmp_path.glob("*.onnx"))


def test_one_image_that_was_held_out_is_not_taken_for_answers_that_are_all_alike(
    generated_data: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    data = load_training_data(generated_data)
    one = Split(data.validation.images[:1], data.validation.labels[:1])
    assert set(write_files(tmp_path, TutorialCNN(), replace(data, validation=one), one, {})) == {"fp32", "fp16", "int8"}


@dataclass(frozen=True)
class Says(ModelFile):
    """Of image number n it says the label n % 10, more or less surely, and of the first `wrong` ones the next."""

    wrong: int = 0
    sure: float = 1.0

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        numbers = np.arange(len(images))
        one_hot = np.eye(10, dtype=np.float32)[(numbers + (numbers < self.wrong)) % 10]
        return self.sure * one_hot + (1 - self.sure) / 10


@pytest.mark.parametrize(("images", "allowed"), [(20, 3), (1_000, 50), (1_500, 50)])
def test_an_int8_file_that_often_names_other_classes_is_refused_however_few_were_held_out(
    images: int, allowed: int
) -> None:
    split = Split(torch.zeros((images, 2, 2, 3), dtype=torch.uint8), torch.zeros(images, dtype=torch.long))

    def check(wrong: int) -> None:
        said: dict[Precision, ModelFile] = {
            "fp32": Says(Path("a"), Calibrator()),
            "int8": Says(Path("b"), Calibrator(), wrong),
        }
        check_agreement(said, split)

    check(allowed)
    told = rf"gives {allowed + 1} of {min(images, 1_000):,} training images another label .*allowed: {allowed}\.0\)"
    with pytest.raises(ExportError, match=told):
        check(allowed + 1)


@pytest.mark.parametrize("sure", [0.04, 0.06])
def test_labels_that_are_almost_as_probable_count_for_as_little(sure: float) -> None:
    split = Split(torch.zeros((100, 2, 2, 3), dtype=torch.uint8), torch.zeros(100, dtype=torch.long))
    said: dict[Precision, ModelFile] = {
        "fp32": Says(Path("a"), Calibrator(), sure=sure),
        "int8": Says(Path("b"), Calibrator(), 100, sure),
    }
    with nullcontext() if sure < 0.05 else pytest.raises(ExportError, match="gives 100 of 100"):
        check_agreement(said, split)


@dataclass(frozen=True)
class Broken(ModelFile):
    """It computes no numbers."""

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.full((len(images), 10), np.nan, np.float32)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_is_no_number_agrees_with_nothing(precision: Precision) -> None:
    split = Split(torch.zeros((100, 2, 2, 3), dtype=torch.uint8), torch.zeros(100, dtype=torch.long))
    said: dict[Precision, ModelFile] = dict.fromkeys(("fp32", "int8"), Says(Path("a"), Calibrator(), sure=0.01))
    with pytest.raises(ExportError, match="of 100 training images another label"):
        check_agreement(said | {precision: Broken(Path("b"), Calibrator())}, split)
