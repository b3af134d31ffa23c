"""/v1/models: what is in the model repository, which of it serves, and, for admin keys, which of it is to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Depends

from service import errors
from service.administration import Administration
from service.api import problems
from service.api.authentication import AdminRight
from service.api.bodies import ModelList, ModelSummary, VersionDetail, VersionSummary
from service.errors import ModelNotFound
from service.loading import LoadedModel
from service.repository import ModelRepository
from service.settings import Settings

CHANGES = {
    "load": "Serve a version that is stored, to those who name it. What is active stays so.",
    "activate": "Let a version answer those who name none; it is loaded if need be.",
    "unload": "Serve a version no more, and not after a restart either; the active one only when it is the last.",
}
ADMIN_RESPONSES = problems.documented(
    errors.Unauthorized, errors.Forbidden, errors.ModelNotFound, errors.Conflict, errors.StorageFailed, errors.Draining
)


def router(
    repository: ModelRepository, administration: Administration, right: AdminRight, settings: Settings
) -> APIRouter:
    """The routes, bound to the repository they show."""
    routes = APIRouter(prefix="/v1/models", tags=["models"])

    @routes.get("")
    async def list_models() -> ModelList:
        """Every model with its versions, those that failed to load among them."""
        names = sorted({*repository.models, *(name for name, _ in _resting(repository))})
        return ModelList(models=[_summary(repository, name, settings) for name in names])

    @routes.get("/{name}", responses=problems.documented(errors.ModelNotFound))
    async def show_model(name: str) -> ModelSummary:
        """One model with its versions."""
        if name not in repository.models and not any(resting == name for resting, _ in _resting(repository)):
            raise ModelNotFound("There is no such model; /v1/models lists all.")
        return _summary(repository, name, settings)

    @routes.get("/{name}/versions/{version}", responses=problems.documented(errors.ModelNotFound))
    async def show_version(name: str, version: str) -> VersionDetail:
        """Everything that is known about a loaded version: labels, input, metrics, calibration, digests, card."""
        loaded = repository.get(name, version)
        return VersionDetail(**_ready(repository, loaded).model_dump(), metadata=loaded.metadata, card=loaded.card)

    for verb, description in CHANGES.items():
        path = f"/{{name}}/versions/{{version}}/{verb}"
        change = _change(getattr(administration, verb), lambda name: _summary(repository, name, settings))
        routes.post(
            path,
            name=verb,
            description=f"{description} Every worker process does, once it has been answered.",
            dependencies=[Depends(right)],
            responses=ADMIN_RESPONSES,
            openapi_extra={"security": [{"key": []}]},
        )(change)
    return routes


def _change(
    change: Callable[[str, str], Awaitable[None]], summary: Callable[[str], ModelSummary]
) -> Callable[[str, str], Awaitable[ModelSummary]]:
    async def endpoint(name: str, version: str) -> ModelSummary:
        await change(name, version)
        return summary(name)

    return endpoint


def _summary(repository: ModelRepository, name: str, settings: Settings) -> ModelSummary:
    ready = [_ready(repository, loaded) for loaded in repository.models.get(name, {}).values()]
    resting = [
        VersionSummary(version=version, state="failed" if reason else "unloaded", active=False, detail=reason)
        for (other, version), reason in _resting(repository).items()
        if other == name
    ]
    return ModelSummary(
        name=name,
        default=name == settings.default_model,
        active_version=repository.active_version(name) if ready else None,
        versions=sorted([*ready, *resting], key=lambda summary: (len(summary.version), summary.version)),
    )


def _resting(repository: ModelRepository) -> dict[tuple[str, str], str | None]:
    """Versions that don't serve, and why, if not because they are not wanted."""
    return {**dict.fromkeys(repository.unloaded), **repository.failed}


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
