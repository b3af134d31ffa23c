"""What files there are of a network from elsewhere: those that can be made and are right about as often."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from service.metadata import ModelMetadata, Precision
from tests.training.foreign.networks import LABELS, network
from tests.training.test_pictures import fill
from training.data import Split, load_training_data
from training.errors import ExportError
from training.foreign import files
from training.foreign.graph import Foreign, read
from training.foreign.importing import import_network
from training.foreign.source import Source
from training.foreign.wrapping import Normalisation
from training.model_files import ModelFile

MAKERS: dict[Precision, str] = {"fp16": "halved", "int8": "quantized"}


def imported(folder: Path) -> Path:
    """A version of a network that is always right, with pictures."""
    file, target = network(folder / "net.onnx"), folder / "models" / "colours" / "1"
    source = Source(file, read(file), LABELS, Normalisation())
    import_network(source, target, load_training_data(fill(folder / "pictures", 30), source.size))
    return target


def test_there_is_one_of_each_precision(tmp_path: Path) -> None:
    target = imported(tmp_path)
    metadata = ModelMetadata.read(target)
    assert set(metadata.files) == set(metadata.calibration.thresholds) == {"fp32", *MAKERS}
    kinds = {tensor.data_type for tensor in onnx.load(target / "model.fp16.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds


@pytest.mark.parametrize("precision", list(MAKERS))
def test_a_file_that_is_worse_is_left_out_and_that_is_said(
    precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of its classes are exchanged, as if coarse steps had confused them."""
    make = getattr(files, MAKERS[precision])

    def worse(*given: Any) -> Any:  # noqa: ANN401
        made = make(*given)
        model = made.model if isinstance(made, Foreign) else made
        for tensor in model.graph.initializer:
            if tensor.dims == [3, 3]:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), tensor.name))
        return made

    monkeypatch.setattr(files, MAKERS[precision], worse)
    target = imported(tmp_path)
    metadata = ModelMetadata.read(target)
    assert precision not in {*metadata.files, *metadata.calibration.thresholds, *metadata.calibration.others}
    card = (target / "MODEL_CARD.md").read_text()
    assert f"The {precision} file gives " in card
    assert " of 64 generated pictures another label than the fp32 file: it was left out" in card
    assert not (target / f"model.{precision}.onnx").exists()


@pytest.mark.parametrize("precision", list(MAKERS))
def test_where_none_can_be_made_there_is_none_and_that_is_said(
    precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_given: Foreign | onnx.ModelProto | np.ndarray) -> NoReturn:
        raise ExportError(f"No {precision} file can be made of the network: an odd operator")

    monkeypatch.setattr(files, MAKERS[precision], none)
    target = imported(tmp_path)
    assert precision not in ModelMetadata.read(target).files
    assert f"No {precision} file can be made" in (target / "MODEL_CARD.md").read_text()


def answering(*rows: list[float]) -> ModelFile:
    """A file that says the first of `rows` of bright pictures, generated ones among them, and the last of dark ones."""

    def answers(images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        dark = (images.mean((1, 2, 3)) < 10).astype(int)
        p = torch.tensor([rows[-1] if each else rows[0] for each in dark])
        return p, p.log()

    return Mock(answers=answers, probabilities=lambda images: answers(images)[0].numpy())


@pytest.mark.parametrize("few", [2, 4])
def test_a_file_that_is_right_about_as_many_of_a_few_pictures_must_agree_on_others(few: int) -> None:
    images = Split(
        torch.tensor([200, 0] * (few // 2), dtype=torch.uint8)[:, None, None, None].expand(-1, 8, 8, 3),
        torch.tensor([0, 1] * (few // 2)),
    )
    exact, constant = answering([0.9, 0.1], [0.1, 0.9]), answering([0.1, 0.9])
    measured = files.measure({"fp32": exact, "fp16": exact, "int8": constant}, images, ("x", "y"), "command")
    assert set(measured.files) == {"fp32", "fp16"}
    (note,) = measured.notes
    assert note == "The int8 file gives 64 of 64 generated pictures another label than the fp32 file: it was left out."
    constant.path.unlink.assert_called_once_with()  # type: ignore[attr-defined]


@pytest.mark.parametrize("where", [0, 1])
def test_a_file_whose_probabilities_are_no_numbers_is_left_out_and_no_network_is_like_that(where: int) -> None:
    images = Split(
        torch.tensor([200, 0], dtype=torch.uint8)[:, None, None, None].expand(-1, 8, 8, 3), torch.tensor([0, 1])
    )
    rows = [[0.9, 0.1], [0.1, 0.9]]
    exact = answering(*rows)
    rows[where] = [math.nan, math.nan]
    measured = files.measure({"fp32": exact, "int8": answering(*rows)}, images, ("x", "y"), "command")
    assert set(measured.files) == {"fp32"}
    assert "no numbers: it was left out." in measured.notes[0]
    with pytest.raises(ExportError, match="The network gives probabilities of some pictures that are no numbers"):
        files.measure({"fp32": answering(*rows)}, images, ("x", "y"), "command")
