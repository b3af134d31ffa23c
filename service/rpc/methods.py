"""The protocol's methods: each a message in, one call to the core, a message out; raises `ServiceError`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from service.administration import Administration
from service.api.open_inference import bodies, descriptions, inference
from service.api.threads import added_up, parsed
from service.api.uploads import INLINE_BYTES
from service.classifier import Classifier
from service.errors import Draining, ModelNotFound, NotReady
from service.metrics import Metrics
from service.rpc import messages
from service.rpc import open_inference_pb2 as pb
from service.serving import ServedModels
from service.settings import Settings

SERVICE = "inference.GRPCInferenceService"
PROBES = {"ServerLive", "ServerReady"}  # they need no key
FOR_ADMINS = {"RepositoryModelLoad", "RepositoryModelUnload"}  # they need one with the admin right


class Call(NamedTuple):
    """What is known of a request beside its message."""

    nbytes: int  # of the message
    left_s: float | None  # for which its client waits


Answer = Callable[[Any, Call], Awaitable[Message]]


class Methods:
    """What answers requests, bound to the core."""

    def __init__(
        self,
        models: ServedModels,
        administration: Administration,
        classifier: Classifier,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._models, self._administration, self._classifier = models, administration, classifier
        self._settings, self._metrics = settings, metrics
        self._repository = models.repository
        self._received = metrics.histogram("convoy_stage_seconds", "receive")

    def all(self) -> dict[str, tuple[type[Message], Answer]]:
        """Name → its request and what answers it."""
        return {
            "ModelInfer": (pb.ModelInferRequest, self._infer),
            "ServerLive": (pb.ServerLiveRequest, self._live),
            "ServerReady": (pb.ServerReadyRequest, self._ready),
            "ModelReady": (pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": (pb.ServerMetadataRequest, self._server),
            "ModelMetadata": (pb.ModelMetadataRequest, self._metadata),
            "ModelConfig": (pb.ModelConfigRequest, self._config),
            "ModelStatistics": (pb.ModelStatisticsRequest, self._statistics),
            "RepositoryIndex": (pb.RepositoryIndexRequest, self._index),
            "RepositoryModelLoad": (pb.RepositoryModelLoadRequest, self._load),
            "RepositoryModelUnload": (pb.RepositoryModelUnloadRequest, self._unload),
        }

    async def _infer(self, request: pb.ModelInferRequest, call: Call) -> Message:
        """Classify images: all of them, or none where one is bad."""
        began, arrived = time.perf_counter(), asyncio.get_running_loop().time()
        chosen = self._models.choose(request.model_name or None, request.model_version or None)

        def until(longest_ms: float) -> float:
            return arrived + min(longest_ms / 1000, math.inf if call.left_s is None else call.left_s)

        if call.nbytes > INLINE_BYTES:
            asked = await parsed(until(self._settings.request_timeout_ms), messages.read, request, self._settings)
        else:
            asked = messages.read(request, self._settings)
        deadline = until(inference.longest_ms(asked, self._settings))
        self._received.observe(time.perf_counter() - began)
        predicted = await inference.infer(self._classifier, asked, chosen, deadline)
        return messages.write(chosen.loaded.identity, asked, predicted)

    async def _live(self, _request: pb.ServerLiveRequest, _call: Call) -> Message:
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, _request: pb.ServerReadyRequest, _call: Call) -> Message:
        return pb.ServerReadyResponse(ready=self._is_ready(None))

    async def _model_ready(self, request: pb.ModelReadyRequest, _call: Call) -> Message:
        """A model that is not there is not ready, no error: clients that wait for one ask again and again."""
        try:
            loaded = self._repository.get(request.name, request.version or None)
        except ModelNotFound:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._is_ready(loaded.identity.name))

    async def _server(self, _request: pb.ServerMetadataRequest, _call: Call) -> Message:
        return ParseDict(descriptions.server().model_dump(), pb.ServerMetadataResponse())

    async def _metadata(self, request: pb.ModelMetadataRequest, _call: Call) -> Message:
        said = descriptions.metadata(self._repository, request.name, request.version or None)
        return ParseDict(said.model_dump(), pb.ModelMetadataResponse())

    async def _config(self, request: pb.ModelConfigRequest, _call: Call) -> Message:
        said = descriptions.config(self._repository, request.name, request.version or None)
        return ParseDict({"config": said.model_dump()}, pb.ModelConfigResponse())

    async def _statistics(self, request: pb.ModelStatisticsRequest, _call: Call) -> Message:
        chosen = descriptions.chosen(self._repository, request.name or None, request.version or None)
        said = await added_up(descriptions.counted, chosen, self._metrics)
        return ParseDict(said.model_dump(), pb.ModelStatisticsResponse())

    async def _index(self, request: pb.RepositoryIndexRequest, _call: Call) -> Message:
        said = descriptions.index(self._repository, ready=request.ready)
        return ParseDict({"models": [entry.model_dump() for entry in said]}, pb.RepositoryIndexResponse())

    async def _load(self, request: pb.RepositoryModelLoadRequest, _call: Call) -> Message:
        bodies.LoadRequest.of({"parameters": messages.parameters(request.parameters)})
        await self._administration.load_all(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, request: pb.RepositoryModelUnloadRequest, _call: Call) -> Message:
        bodies.UnloadRequest.of({"parameters": messages.parameters(request.parameters)})
        await self._administration.unload_all(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    def _is_ready(self, name: str | None) -> bool:
        try:
            self._models.check_ready(name)
        except (Draining, NotReady):
            return False
        return True
