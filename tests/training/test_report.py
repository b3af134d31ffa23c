"""Cards are whole."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from service.metadata import CARD, ModelMetadata
from training.report import card, write_card


def test_a_card_that_does_not_fit_onto_the_disk_leaves_the_old_one(models_dir: Path, tmp_path: Path) -> None:
    exported = ModelMetadata.read(models_dir / "colours" / "1")
    imported = exported.provenance.model_copy(update={"epochs": 0})  # trained elsewhere: no command has to be named
    metadata = exported.model_copy(update={"provenance": imported})
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
