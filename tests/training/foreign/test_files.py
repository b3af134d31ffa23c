"""What files there are of a network from elsewhere: those that can be made and are right about as often."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.metadata import ModelMetadata, Precision
from tests.training.foreign.networks import LABELS, network
from tests.training.test_pictures import fill
from training.data import load_training_data
from training.errors import ExportError
from training.foreign import files
from training.foreign.graph import Foreign, read
from training.foreign.importing import import_network
from training.foreign.source import Source
from training.foreign.wrapping import Normalisation

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
    assert f"The {precision} file was right about" in card
    assert "the fp32 file about 100.00%: it was left out" in card
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
