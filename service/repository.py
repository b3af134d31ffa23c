"""models/<name>/<version>/ → verified, loaded and warmed models. Nothing becomes active that has not proven itself.

A version is read from its metadata, its files are checked against their digests, its golden samples are replayed
on the provider that will serve it, and every batch size is run once. What fails keeps its reason and does not serve.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.engine import Engine
from service.errors import ModelNotFound, ServiceError, StartupError
from service.metadata import ModelMetadata, Precision
from service.prediction import ModelIdentity
from service.preprocessing import RESIZE_POLICIES
from service.types import Probabilities, Rows

GOLDEN_TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "int8": 1e-3}
OpenEngine = Callable[[ModelMetadata, Path], Engine]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A version that is ready to answer."""

    identity: ModelIdentity
    metadata: ModelMetadata
    precision: Precision
    engine: Engine
    canary: Rows  # one golden picture, (1, H, W, 3): what health checks infer
    card: str


class ModelRepository:
    """All versions found under one folder, loaded, and which of them is active for each name."""

    def __init__(self, root: Path, open_engine: OpenEngine) -> None:
        self._root, self._open_engine = root, open_engine
        self._loaded: dict[str, dict[str, LoadedModel]] = {}
        self._failed: dict[tuple[str, str], str] = {}

    def load_all(self, default: str) -> None:
        """Load every version; raises `StartupError` when the default model is not among those that can serve."""
        for folder in sorted(self._root.glob("*/*/metadata.json")):
            name, version = folder.parent.parent.name, folder.parent.name
            try:
                model = self._load(folder.parent)
            except (OSError, ValueError, ServiceError, StartupError) as exc:
                self._failed[name, version] = str(exc)
                logger.error("model %s/%s is not served: %s", name, version, exc)
            else:
                self._loaded.setdefault(name, {})[version] = model
        if default not in self._loaded:
            reasons = [f"version {v}: {why}" for (name, v), why in self._failed.items() if name == default]
            raise StartupError(
                f"The default model {default} can't be served from {self._root}"
                + (f" ({'; '.join(reasons)})" if reasons else "; choose another with --default-model or --models-dir.")
            )

    @property
    def models(self) -> dict[str, dict[str, LoadedModel]]:
        """Everything that serves, by name and version."""
        return self._loaded

    @property
    def failed(self) -> dict[tuple[str, str], str]:
        """Versions that don't serve, and why."""
        return self._failed

    def active_version(self, name: str) -> str:
        """The version that answers when none is named: the highest; raises `ModelNotFound`."""
        return max(self._versions(name), key=int)

    def get(self, name: str, version: str | None = None) -> LoadedModel:
        """The model that answers for `name` and `version`; raises `ModelNotFound`."""
        versions = self._versions(name)
        version = version or self.active_version(name)
        if version not in versions:
            raise ModelNotFound(f"That version is not loaded; loaded are: {', '.join(sorted(versions, key=int))}.")
        return versions[version]

    def _versions(self, name: str) -> dict[str, LoadedModel]:
        if name not in self._loaded:
            raise ModelNotFound(f"There is no such model; loaded are: {', '.join(sorted(self._loaded))}.")
        return self._loaded[name]

    def _load(self, folder: Path) -> LoadedModel:
        began = time.monotonic()
        metadata = ModelMetadata.read(folder)
        if (metadata.name, metadata.version) != (folder.parent.name, folder.name):
            raise ValueError(f"its metadata says it is {metadata.name}/{metadata.version}")
        if metadata.input.resize_policy not in RESIZE_POLICIES:
            raise ValueError(
                f"its resize policy {metadata.input.resize_policy} is not one of {', '.join(RESIZE_POLICIES)}"
            )
        precision: Precision = "fp32"
        file = metadata.files[precision]
        engine = self._open_engine(metadata, file.verify(folder))
        pictures, expected = _read_golden(metadata.golden.verify(folder))
        _replay(engine, pictures, expected, GOLDEN_TOLERANCE[precision])
        engine.warm_up()
        logger.info(
            "model %s/%s serves on %s, %s, after %.2f s",
            metadata.name,
            metadata.version,
            engine.provider,
            precision,
            time.monotonic() - began,
        )
        card = folder / "MODEL_CARD.md"
        return LoadedModel(
            identity=ModelIdentity(metadata.name, metadata.version, f"sha256:{file.sha256}", metadata.labels),
            metadata=metadata,
            precision=precision,
            engine=engine,
            canary=pictures[:1],
            card=card.read_text(encoding="utf-8") if card.is_file() else "",
        )


def _read_golden(path: Path) -> tuple[Rows, Probabilities]:
    with np.load(path, allow_pickle=False) as arrays:
        try:
            return arrays["images"], arrays["probabilities"]
        except KeyError as exc:
            raise ValueError(f"{path.name} lacks {exc}") from exc


def _replay(engine: Engine, pictures: Rows, expected: Probabilities, tolerance: float) -> None:
    """Raise `ValueError` unless the engine gives what torch gave at export."""
    size = engine.max_batch_size
    got = np.concatenate([engine.infer(pictures[i : i + size]) for i in range(0, len(pictures), size)])
    if got.shape != expected.shape:
        raise ValueError(f"its golden samples have {expected.shape[1]} classes, the model {got.shape[1]}")
    difference = float(np.abs(got - expected).max())
    if not difference <= tolerance:
        raise ValueError(
            f"its golden samples come out differently here, by up to {difference:.1e} (allowed: {tolerance:.0e})"
        )
