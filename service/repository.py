"""models/<name>/<version>/ → which versions serve, which of them is active for each name, and why others don't serve.

What fails to load keeps its reason and does not serve; nothing becomes active that has not proven itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from service.choices import Choice
from service.errors import ModelNotFound, ServiceError, StartupError
from service.loading import LoadedModel, OpenEngine, load_version
from service.metadata import FILE_NAME, ModelMetadata, Name

NAME = re.compile(get_args(Name)[1].pattern)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inventory:
    """What one look at the folder found: versions that can serve, and why the others can't."""

    loaded: dict[str, dict[str, LoadedModel]] = field(default_factory=dict)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    unloaded: set[tuple[str, str]] = field(default_factory=set)  # not wanted
    active: dict[str, str] = field(default_factory=dict)  # of every loaded model

    def models(self) -> Iterator[LoadedModel]:
        """Every loaded version."""
        return (model for versions in self.loaded.values() for model in versions.values())


class ModelRepository:
    """All versions found under one folder, loaded, and which of them is active for each name."""

    def __init__(self, root: Path, default: str, open_engine: OpenEngine) -> None:
        """Loads every version; raises `StartupError` when the model `default` is not among those that can serve."""
        self.root, self.default, self._open_engine = root, default, open_engine
        self.inventory = Inventory()
        self.inventory = self.look()

    def look(self) -> Inventory:
        """What the folder holds now; versions that are loaded and unchanged stay what they are.

        Takes its time and changes nothing: whoever calls it publishes the result as `inventory`. Raises `StartupError`
        when the default model can't serve.
        """
        found = self.find() if self.stored(self.default) else Inventory()  # a slip is told before the others load
        if self.default not in found.loaded:
            reasons = [f"version {v}: {why}" for (name, v), why in found.failed.items() if name == self.default]
            self.discard(found)
            raise StartupError(
                f"The default model {self.default} can't be served from {self.root}"
                + (f" ({'; '.join(reasons)})" if reasons else "; choose another with --default-model or --models-dir.")
            )
        return found

    def find(self, proposed: Mapping[str, Choice] | None = None) -> Inventory:
        """As `look`, even where the default model can't serve; `proposed` choices take the place of those kept."""
        found = Inventory()
        try:
            for folder in self._folders():
                try:
                    choice = (proposed or {}).get(folder.name) or Choice.read(folder)
                except (OSError, ValueError) as exc:
                    found.failed.update({(folder.name, version): _reason(exc) for version in self.stored(folder.name)})
                    logger.error("model %s is not served: %s", folder.name, exc)
                else:
                    self._load_versions(folder, choice, found)
        except BaseException:  # nobody gets what has been loaded so far
            self.discard(found)
            raise
        return found

    def _folders(self) -> list[Path]:
        """Those of models; whatever no model or version can be called is passed over, and said in the log."""
        folders = set[Path]()
        for folder in _version_folders(self.root):
            model, version = folder.parent, folder.name
            if NAME.fullmatch(model.name) and version.isprintable():
                folders.add(model)
            else:
                logger.warning("the folder %a is passed over: no model can be called that", f"{model.name}/{version}")
        return sorted(folders)

    def _load_versions(self, folder: Path, choice: Choice, found: Inventory) -> None:
        """Add one model's versions to those found."""
        name = folder.name
        loaded = found.loaded[name] = {}
        for version in sorted(self.stored(name)):
            if version in choice.unloaded:
                found.unloaded.add((name, version))
                continue
            try:
                model = self._unchanged(folder / version) or load_version(folder / version, self._open_engine)
            except (OSError, ValueError, ServiceError, StartupError) as exc:
                found.failed[name, version] = _reason(exc)
                logger.error("model %s/%s is not served: %s", name, version, exc)
            else:
                loaded[version] = model
        if choice.active and choice.active not in loaded:
            why = f"its active version, {choice.active}, can't be; activate another"
            logger.error("model %s can't be served with version %s active; activate another", name, choice.active)
            found.failed.update({(name, version): why for version in loaded})
            self._discard(loaded.values())
            loaded.clear()
        if loaded:
            found.active[name] = choice.active or max(loaded, key=int)
        else:
            del found.loaded[name]

    def discard(self, found: Inventory) -> None:
        """Close what was loaded for an inventory that is not published."""
        self._discard(found.models())

    def _discard(self, models: Iterable[LoadedModel]) -> None:
        kept = {model.engine for model in self.inventory.models()}
        for model in models:
            if model.engine not in kept:
                model.engine.close()

    def stored(self, name: str) -> set[str]:
        """The versions of a model that the folder holds, whether they serve or not."""
        found = {folder.name for folder in _version_folders(self.root) if folder.parent.name == name}
        return {version for version in found if version.isprintable()}  # others can't be told to anybody

    @property
    def models(self) -> dict[str, dict[str, LoadedModel]]:
        """Everything that serves, by name and version."""
        return self.inventory.loaded

    @property
    def failed(self) -> dict[tuple[str, str], str]:
        """Versions that don't serve, and why."""
        return self.inventory.failed

    @property
    def unloaded(self) -> set[tuple[str, str]]:
        """Versions that are not wanted."""
        return self.inventory.unloaded

    def active_version(self, name: str) -> str:
        """The version that answers when none is named; raises `ModelNotFound`."""
        self.versions(name)
        return self.inventory.active[name]

    def get(self, name: str, version: str | None = None) -> LoadedModel:
        """The model that answers for `name` and `version`; raises `ModelNotFound`."""
        versions = self.versions(name)
        version = version or self.active_version(name)
        if version not in versions:
            raise ModelNotFound(f"That version is not loaded; loaded are: {', '.join(sorted(versions, key=int))}.")
        return versions[version]

    def versions(self, name: str) -> dict[str, LoadedModel]:
        """Everything that serves under `name`; raises `ModelNotFound`."""
        if name not in self.models:
            raise ModelNotFound(f"There is no such model; loaded are: {', '.join(sorted(self.models))}.")
        return self.models[name]

    def damage(self, loaded: LoadedModel) -> str | None:
        """Why what serves could not be loaded again from the disk, or None: it goes on, but is not to be relied on."""
        folder = self.root / loaded.identity.name / loaded.identity.version
        try:
            for file in (*loaded.metadata.files.values(), loaded.metadata.golden):
                file.verify(folder)
        except (OSError, ValueError) as exc:
            return _reason(exc)
        return None

    def _unchanged(self, folder: Path) -> LoadedModel | None:
        loaded = self.models.get(folder.parent.name, {}).get(folder.name)
        return loaded if loaded is not None and loaded.metadata == ModelMetadata.read(folder) else None


def _version_folders(root: Path) -> Iterator[Path]:
    """root/<name>/<version>/ with metadata in it, whatever else comes and goes there meanwhile."""
    for model in _visible(root):
        for version in _visible(model):
            if version / FILE_NAME in _visible(version):
                yield version


def _visible(folder: Path) -> list[Path]:
    """What it holds, if it is a folder and has not gone; names with a dot before them are for what is no model yet."""
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _reason(exc: Exception) -> str:
    """Why a version does not serve, as everybody may read it: without the path."""
    return f"a file of it can't be read: {exc.strerror or 'the log says why'}" if isinstance(exc, OSError) else str(exc)
