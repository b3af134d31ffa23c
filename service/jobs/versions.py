"""Which version `convoy score` works with: the one that a server on the same model repository would answer by."""

from __future__ import annotations

from pathlib import Path

from service.choices import Choice
from service.metadata import ModelMetadata
from service.settings import Settings
from service.streams import tell


def chosen_folder(settings: Settings, name: str | None, version: str | None) -> Path:
    """The folder of a model's version, by default of the one that a server would answer by; raises `ValueError`."""
    root = settings.models_dir / (name or settings.default_model)
    versions, choice = {path.parent.name for path in root.glob("*/metadata.json")}, Choice.read(root)
    chosen = version or choice.active or _highest(root, versions - choice.unloaded)
    if chosen not in versions:
        raise ValueError(
            f"There is no model {root.name}{f' {version}' if version else ''} in {settings.models_dir}; "
            "choose another with --model, --version or --models-dir."
        )
    return root / chosen


def _highest(root: Path, versions: set[str]) -> str:
    """The highest of a model's versions, without those that no server could load; empty where there is none."""
    for version in sorted(filter(str.isdecimal, versions), key=int, reverse=True):  # no copies, nothing half exported
        try:
            metadata = ModelMetadata.read(root / version)
            if (metadata.name, metadata.version) != (root.name, version):
                raise ValueError(f"its metadata says it is {metadata.name}/{metadata.version}")
            for file in (*metadata.files.values(), metadata.golden):
                file.verify(root / version)
        except (OSError, ValueError) as exc:
            tell(f"Version {version} of {root.name} is passed over, as by a server: {exc}.")
        else:
            return version
    return ""
