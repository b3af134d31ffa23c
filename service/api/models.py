"""GET /v1/models: what is in the model repository and which of it serves."""

from __future__ import annotations

from fastapi import APIRouter

from service import errors
from service.api import problems
from service.api.bodies import ModelList, ModelSummary, VersionDetail, VersionSummary
from service.errors import ModelNotFound
from service.repository import LoadedModel, ModelRepository
from service.settings import Settings


def router(repository: ModelRepository, settings: Settings) -> APIRouter:
    """The routes, bound to the repository they show."""
    routes = APIRouter(prefix="/v1/models", tags=["models"])

    @routes.get("")
    async def list_models() -> ModelList:
        """Every model with its versions, those that failed to load among them."""
        names = sorted({*repository.models, *(name for name, _ in repository.failed)})
        return ModelList(models=[_summary(repository, name, settings) for name in names])

    @routes.get("/{name}", responses=problems.documented(errors.ModelNotFound))
    async def show_model(name: str) -> ModelSummary:
        """One model with its versions."""
        if name not in repository.models and not any(failed == name for failed, _ in repository.failed):
            raise ModelNotFound("There is no such model; /v1/models lists all.")
        return _summary(repository, name, settings)

    @routes.get("/{name}/versions/{version}", responses=problems.documented(errors.ModelNotFound))
    async def show_version(name: str, version: str) -> VersionDetail:
        """Everything that is known about a loaded version: labels, input, metrics, calibration, digests, card."""
        loaded = repository.get(name, version)
        return VersionDetail(**_ready(repository, loaded).model_dump(), metadata=loaded.metadata, card=loaded.card)

    return routes


def _summary(repository: ModelRepository, name: str, settings: Settings) -> ModelSummary:
    ready = [_ready(repository, loaded) for loaded in repository.models.get(name, {}).values()]
    failed = [
        VersionSummary(version=version, state="failed", active=False, detail=reason)
        for (failed_name, version), reason in repository.failed.items()
        if failed_name == name
    ]
    return ModelSummary(
        name=name,
        default=name == settings.default_model,
        active_version=repository.active_version(name) if ready else None,
        versions=sorted([*ready, *failed], key=lambda summary: summary.version),
    )


def _ready(repository: ModelRepository, loaded: LoadedModel) -> VersionSummary:
    identity = loaded.identity
    return VersionSummary(
        version=identity.version,
        state="ready",
        active=identity.version == repository.active_version(identity.name),
        digest=identity.digest,
        provider=loaded.engine.provider,
        precision=loaded.engine.precision,
    )
