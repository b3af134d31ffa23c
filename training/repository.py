"""A folder in the model repository → what the model in it says of itself; where there is none, `TrainingError`."""

from __future__ import annotations

from pathlib import Path

from service.metadata import FILE_NAME, ModelMetadata
from training.errors import TrainingError


def read_model(folder: Path) -> ModelMetadata:
    """The metadata of the model in `folder`."""
    try:
        return ModelMetadata.read(folder)
    except (OSError, ValueError) as exc:
        raise TrainingError(f"{folder} is not an exported model: its metadata.json is missing or not valid.") from exc


def read_models(repository: Path) -> list[ModelMetadata]:
    """Those of all models in `repository`, by their folders' names."""
    return [read_model(path.parent) for path in sorted(repository.glob(f"*/*/{FILE_NAME}"))]
