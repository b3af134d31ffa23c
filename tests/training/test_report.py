"""Cards are whole, and tables straight."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from service.metadata import CARD, Evaluation, ModelMetadata, Robustness
from training.report import card, robustness_table, table, write_card


@pytest.fixture
def metadata(models_dir: Path) -> ModelMetadata:
    exported = ModelMetadata.read(models_dir / "colours" / "1")
    imported = exported.provenance.model_copy(update={"epochs": 0})  # trained elsewhere: no command has to be named
    return exported.model_copy(update={"provenance": imported})


def measured_of(classes: dict[str, float]) -> Evaluation:
    return Evaluation(
        split="test",
        precision="fp32",
        images=9,
        accuracy=1,
        nll=0,
        brier=0,
        ece=0,
        ece_uncalibrated=0,
        class_accuracy=classes,
        command="",
    )


def test_a_card_that_does_not_fit_onto_the_disk_leaves_the_old_one(metadata: ModelMetadata, tmp_path: Path) -> None:
    write_card(metadata, tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_card(metadata.model_copy(update={"description": "Another."}), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / CARD).read_text() == card(metadata)
    assert [path.name for path in tmp_path.iterdir()] == [CARD]


def test_values_stand_below_each_other_whatever_classes_are_called() -> None:
    clean = measured_of({"golden retriever": 1, "cat": 1})
    damaged = Robustness(
        split="test", precision="fp32", images=9, jpeg_75=1, grey=1, corruptions={"fog": (1,), "snow": (1,)}, command=""
    )
    for lines in (table(clean).splitlines(), robustness_table(damaged, ["fog"]).splitlines()[1:]):
        assert len({line.rindex(" 100.") for line in lines if " 100." in line}) == 1, lines


def test_a_class_has_one_row_and_one_cell_whatever_it_is_called(metadata: ModelMetadata) -> None:
    named = metadata.model_copy(update={"labels": ("red|dark\nred", *metadata.labels[1:])})
    assert r"| labels | red\|dark red, green, blue |" in card(named).splitlines()
    measured = measured_of({"red|dark\nred": 1})
    assert r"| red\|dark red | 100.0% |" in card(named.model_copy(update={"evaluations": (measured,)})).splitlines()
