"""The model repository → what the protocol says of it, over HTTP and over gRPC. Raises `ModelNotFound`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import version as version_of

from service.api.open_inference import bodies
from service.loading import LoadedModel
from service.metadata import INPUT, OUTPUT
from service.metrics import Metrics
from service.repository import ModelRepository

PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"  # Triton's names for what runs here
EXTENSIONS = [
    "binary_tensor_data", "classification", "model_configuration", "model_repository", "schedule_policy", "statistics",
]  # fmt: skip


def server() -> bodies.Server:
    """What answers here."""
    return bodies.Server(name="convoy", version=version_of("convoy"), extensions=EXTENSIONS)


def metadata(repository: ModelRepository, name: str, version: str | None) -> bodies.Model:
    """A model's tensors."""
    loaded = repository.get(name, version)
    image, classes = loaded.metadata.input, len(loaded.identity.labels)
    return bodies.Model(
        name=loaded.identity.name,
        versions=list(repository.versions(name)),
        platform=PLATFORM,
        inputs=[bodies.TensorMetadata(name=INPUT, datatype="UINT8", shape=[-1, image.height, image.width, 3])],
        outputs=[bodies.TensorMetadata(name=OUTPUT, datatype="FP32", shape=[-1, classes])],
    )


def config(repository: ModelRepository, name: str, version: str | None) -> bodies.Config:
    """The same in Triton's words."""
    loaded = repository.get(name, version)
    image, classes = loaded.metadata.input, len(loaded.identity.labels)
    return bodies.Config(
        name=loaded.identity.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=loaded.engine.max_batch_size,
        input=[bodies.TensorConfig(name=INPUT, data_type="TYPE_UINT8", dims=[image.height, image.width, 3])],
        output=[bodies.TensorConfig(name=OUTPUT, data_type="TYPE_FP32", dims=[classes])],
    )


def chosen(repository: ModelRepository, name: str | None, version: str | None) -> list[LoadedModel]:
    """One version, a model's, or all."""
    if name:
        return [repository.get(name, version)] if version else list(repository.versions(name).values())
    return list(repository.inventory.models())


def counted(versions: Iterable[LoadedModel], metrics: Metrics) -> bodies.Statistics:
    """What became of their images: work for a thread, since all workers' counts have to be looked through."""
    answered, failed = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for (*which, outcome), images in metrics.totals("convoy_images_total").items():
        (answered if outcome == "predicted" else failed)[tuple(which)] += int(images)
    return bodies.Statistics(model_stats=[_statistics(loaded, answered, failed) for loaded in versions])


def index(repository: ModelRepository, *, ready: bool) -> list[bodies.IndexEntry]:
    """Every version in the model repository, or only those that answer."""
    loaded = [
        bodies.IndexEntry(name=model.identity.name, version=model.identity.version, state="READY")
        for model in repository.inventory.models()
    ]
    failed = [
        bodies.IndexEntry(name=name, version=version, state="UNAVAILABLE", reason=reason)
        for (name, version), reason in repository.failed.items()
    ]
    unloaded = [
        bodies.IndexEntry(name=name, version=version, state="UNAVAILABLE", reason="unloaded")
        for name, version in sorted(repository.unloaded)
    ]
    return loaded if ready else loaded + failed + unloaded


def _statistics(
    loaded: LoadedModel, answered: Mapping[tuple[str, ...], int], failed: Mapping[tuple[str, ...], int]
) -> bodies.VersionStatistics:
    which = loaded.identity.name, loaded.identity.version
    success, fail = (bodies.Count(count=images[which]) for images in (answered, failed))
    return bodies.VersionStatistics(
        name=loaded.identity.name,
        version=loaded.identity.version,
        inference_count=success.count,
        inference_stats=bodies.Outcomes(success=success, fail=fail),
    )
