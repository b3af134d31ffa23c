"""models/<name>/<version>/ → verified, loaded and warmed models. Nothing becomes active that has not proven itself.

A version is read from its metadata, its files are checked against their digests, its golden samples are replayed
on the provider that will serve it, and every batch size is run once. What fails keeps its reason and does not serve.
"""

from __future__ import annotations

import logging
import re
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np

from service.choices import Choice
from service.engine import Engine
from service.errors import ModelNotFound, ServiceError, StartupError
from service.metadata import CARD, FILE_NAME, ModelMetadata, Name, Precision
from service.prediction import ModelIdentity
from service.preprocessing import RESIZE_POLICIES
from service.settings import Settings
from service.stages import StageViewer
from service.types import Probabilities, Rows

GOLDEN_TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "int8": 5e-2}  # int8: processors round apart
NAME = re.compile(get_args(Name)[1].pattern)
OpenEngine = Callable[[ModelMetadata, Mapping[Precision, Path]], Engine]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A version that is ready to answer."""

    identity: ModelIdentity
    metadata: ModelMetadata
    engine: Engine
    canary: Rows  # one golden picture, (1, H, W, 3): what health checks infer
    stages: StageViewer
    card: str


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
                    self._find(folder, choice, found)
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

    def _find(self, folder: Path, choice: Choice, found: Inventory) -> None:
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
            logger.error("model %s is not served: %s", name, why)
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

    def _unchanged(self, folder: Path) -> LoadedModel | None:
        loaded = self.models.get(folder.parent.name, {}).get(folder.name)
        return loaded if loaded is not None and loaded.metadata == ModelMetadata.read(folder) else None


def opener(settings: Settings, *, threads: int, number: int = 0) -> OpenEngine:
    """What opens a model's engine as the settings say, in the process of that `number` among its like."""

    def open_engine(metadata: ModelMetadata, files: Mapping[Precision, Path]) -> Engine:
        return Engine(
            files,
            device=settings.device,
            precision=None if settings.precision == "auto" else settings.precision,
            classes=len(metadata.labels),
            height=metadata.input.height,
            width=metadata.input.width,
            max_batch_size=settings.max_batch_size or None,
            threads=threads,
            number=number,
        )

    return open_engine


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


def load_version(folder: Path, open_engine: OpenEngine, *, warm_up: bool = True) -> LoadedModel:
    """The version in `folder`, verified; raises `OSError`, `ValueError`, `ServiceError` or `StartupError`."""
    began = time.monotonic()
    metadata = ModelMetadata.read(folder)
    if (metadata.name, metadata.version) != (folder.parent.name, folder.name):
        raise ValueError(f"its metadata says it is {metadata.name}/{metadata.version}")
    if metadata.input.resize_policy not in RESIZE_POLICIES:
        raise ValueError(f"its resize policy {metadata.input.resize_policy} is not one of {', '.join(RESIZE_POLICIES)}")
    card = _read_card(folder / CARD)
    engine = open_engine(metadata, {kind: file.verify(folder) for kind, file in metadata.files.items()})
    pictures, expected = _read_golden(metadata.golden.verify(folder), engine.precision)
    _replay(engine, pictures, expected, GOLDEN_TOLERANCE[engine.precision])
    if warm_up:
        engine.warm_up()
    logger.info(
        "model %s/%s serves on %s, %s, after %.2f s",
        metadata.name,
        metadata.version,
        engine.provider,
        engine.precision,
        time.monotonic() - began,
    )
    digest = f"sha256:{metadata.files[engine.precision].sha256}"
    return LoadedModel(
        identity=ModelIdentity(metadata.name, metadata.version, digest, metadata.labels),
        metadata=metadata,
        engine=engine,
        canary=pictures[:1],
        stages=StageViewer(folder, metadata.files["fp32"], metadata.stages),
        card=card,
    )


def _read_card(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError as exc:
        raise ValueError(f"{path.name} is not UTF-8 text; save it as that") from exc


def _read_golden(path: Path, precision: Precision) -> tuple[Rows, Probabilities]:
    """The pictures, and what the file of that precision gave for them at export, or torch where that is not kept."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:  # it leaves a damaged file open
            return arrays["images"], arrays.get(f"probabilities_{precision}", arrays["probabilities"])
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as exc:
        raise ValueError(f"{path.name} has no images and probabilities; export the model again") from exc


def _replay(engine: Engine, pictures: Rows, expected: Probabilities, tolerance: float) -> None:
    """Raise `ValueError` unless the engine gives what was given at export."""
    size = engine.max_batch_size
    got = np.concatenate([engine.infer(pictures[i : i + size]) for i in range(0, len(pictures), size)])
    if got.shape != expected.shape:
        raise ValueError(f"its golden samples are of the shape {expected.shape}, the model's answers {got.shape}")
    difference = float(np.abs(got - expected).max())
    if not difference <= tolerance:
        raise ValueError(
            f"its golden samples come out differently here, by up to {difference:.1e} (allowed: {tolerance:.0e})"
        )
