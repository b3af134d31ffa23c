"""One version's folder → a loaded model that has proven itself.

Its metadata is read, its files are checked against their digests, its golden samples are replayed on the provider that
will serve it, and batches of the sizes to come are run once.
"""

from __future__ import annotations

import logging
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.engine import Engine
from service.metadata import CARD, InputSpec, ModelMetadata, Precision
from service.prediction import ModelIdentity
from service.preprocessing import RESIZE_POLICIES
from service.settings import Settings
from service.stages import StageViewer
from service.types import Probabilities, Rows

GOLDEN_TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "int8": 5e-2}  # int8: processors round apart
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


def opener(settings: Settings, *, threads: int, number: int = 0) -> OpenEngine:
    """What opens a model's engine as the settings say; `number` as for `Engine`."""

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
    pictures, expected = _read_golden(metadata.golden.verify(folder), engine.precision, metadata.input)
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


def _read_golden(path: Path, precision: Precision, size: InputSpec) -> tuple[Rows, Probabilities]:
    """The pictures, and what the file of that precision gave for them at export, or torch where that is not kept."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:  # it leaves a damaged file open
            pictures, expected = arrays["images"], arrays.get(f"probabilities_{precision}", arrays["probabilities"])
            if pictures.dtype != np.uint8 or pictures.shape != (len(pictures) or 1, size.height, size.width, 3):
                raise ValueError("nothing that the model takes")
            if not np.issubdtype(expected.dtype, np.floating):
                raise ValueError("nothing that the model gives")
            return pictures, expected
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
