"""The model repository, models/<name>/<version>: what is in it; how a version comes in, whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from service.metadata import FILE_NAME, ModelMetadata, Name, Version
from training.errors import ExportError, TrainingError

NAME, VERSION = TypeAdapter[str](Name), TypeAdapter[str](Version)


def read_model(folder: Path) -> ModelMetadata:
    """The metadata of the model in `folder`; raises `TrainingError` where there is none."""
    try:
        return ModelMetadata.read(folder)
    except (OSError, ValueError) as exc:
        raise TrainingError(f"{folder} is not an exported model: its metadata.json is missing or not valid.") from exc


def read_models(repository: Path) -> list[ModelMetadata]:
    """Those of all models in `repository`, by their folders' names; what is hidden, as an export under way, is none."""
    return [read_model(path.parent) for path in sorted(repository.glob(f"[!.]*/[!.]*/{FILE_NAME}"))]


def check_target(target: Path) -> None:
    """Raise `ExportError` when no model can be called so, or when the version exists."""
    try:
        NAME.validate_python(target.parent.name)
        VERSION.validate_python(target.name)
    except ValidationError as exc:
        raise ExportError(
            f"{target} names no version of a model; export to models/NAME/VERSION, where NAME is of lower-case "
            "letters, digits, dots, hyphens and underscores, and VERSION is a number from 1 on."
        ) from exc
    if target.exists():
        raise ExportError(f"{target} exists, and versions never change; export to the next version.")


@contextmanager
def new_version(target: Path) -> Iterator[Path]:
    """A folder beside `target` to be filled; it becomes `target` at the end, and nothing where anything is raised."""
    made = [each for each in target.parents if not each.exists()]  # the innermost first
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)  # until then it is its owner's alone
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # of the first that holds something
            for each in made:
                each.rmdir()
