"""Everything that can go wrong, each with the HTTP status it becomes.

`ServiceError`s belong to a request: slug and title name the kind, `detail` tells the client what to do and never holds
a path, a stack or a library's text. `StartupError`s belong to the operator: the process ends with the sentence.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar


class StartupError(Exception):
    """The service can't start as it was asked to; the text says why and what to do."""


class ServiceError(Exception):
    """What a request ends with instead of a prediction."""

    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    retry_after_s: int | None = None

    def __init__(self, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if retry_after_s:
            self.retry_after_s = retry_after_s

    def summary(self) -> dict[str, str]:
        """What stands in the place of one image's prediction."""
        return {"type": self.slug, "title": self.title, "detail": self.detail}


class MalformedRequest(ServiceError):
    """The body, a header or a query value can't be parsed."""

    slug, title, status = "malformed-request", "Malformed request", HTTPStatus.BAD_REQUEST


class Unauthorized(ServiceError):
    """No key, or one that is not known."""

    slug, title, status = "unauthorized", "Unauthorized", HTTPStatus.UNAUTHORIZED


class Forbidden(ServiceError):
    """A key without the right that this needs, or nobody has it here; a page of another origin that is not allowed."""

    slug, title, status = "forbidden", "Forbidden", HTTPStatus.FORBIDDEN


class NotFound(ServiceError):
    """No such path."""

    slug, title, status = "not-found", "Not found", HTTPStatus.NOT_FOUND


class ModelNotFound(ServiceError):
    """No such model or version."""

    slug, title, status = "model-not-found", "Model not found", HTTPStatus.NOT_FOUND


class BatchNotFound(ServiceError):
    """No such batch, or not any more."""

    slug, title, status = "batch-not-found", "Batch not found", HTTPStatus.NOT_FOUND


class MethodNotAllowed(ServiceError):
    """The path exists, the method does not."""

    slug, title, status = "method-not-allowed", "Method not allowed", HTTPStatus.METHOD_NOT_ALLOWED


class NotAcceptable(ServiceError):
    """No answer in a format of the Accept header."""

    slug, title, status = "not-acceptable", "Not acceptable", HTTPStatus.NOT_ACCEPTABLE


class Conflict(ServiceError):
    """The request contradicts an earlier one."""

    slug, title, status = "conflict", "Conflict", HTTPStatus.CONFLICT


class BodyTooLarge(ServiceError):
    """The body, or one image of it, has too many bytes."""

    slug, title, status = "body-too-large", "Body too large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class TooManyImages(ServiceError):
    """The request holds more images than one request may."""

    slug, title, status = "too-many-images", "Too many images", HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class UnsupportedMediaType(ServiceError):
    """The body's content type is none that holds images."""

    slug, title, status = (
        "unsupported-media-type",
        "Unsupported media type",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    )


class RangeNotSatisfiable(ServiceError):
    """The part of the results that was asked for is not there, or not yet."""

    slug, title, status = "range-not-satisfiable", "Range not satisfiable", HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE

    def __init__(self, detail: str, *, size: int | None = None) -> None:
        super().__init__(detail)
        self.size = size  # bytes that there are in all, where no more will come


class InvalidImage(ServiceError):
    """These bytes are no image that can be decoded."""

    slug, title, status = "invalid-image", "Not an image", HTTPStatus.UNPROCESSABLE_ENTITY


class ImageTooLarge(InvalidImage):
    """An image with more pixels than the limit."""

    slug, title = "image-too-large", "Image too large"


class WrongShape(ServiceError):
    """An array that is no uint8 RGB image or stack of them."""

    slug, title, status = "wrong-shape", "Wrong shape", HTTPStatus.UNPROCESSABLE_ENTITY


class InvalidSource(ServiceError):
    """An archive or table that can't be read, or asks too much of the machine; its images are not to blame."""

    slug, title, status = "invalid-source", "Not a readable batch", HTTPStatus.UNPROCESSABLE_ENTITY


class EmptyRequest(ServiceError):
    """A request without an image."""

    slug, title, status = "empty-request", "Empty request", HTTPStatus.UNPROCESSABLE_ENTITY


class TooManyRequests(ServiceError):
    """This client has more under way than its share."""

    slug, title, status, retry_after_s = "too-many-requests", "Too many requests", HTTPStatus.TOO_MANY_REQUESTS, 1


class Overloaded(ServiceError):
    """The queue is full."""

    slug, title, status, retry_after_s = "overloaded", "Overloaded", HTTPStatus.SERVICE_UNAVAILABLE, 1


class OutOfMemory(Overloaded):
    """The device has no room for the batch; what else uses it may leave some later."""


class NotReady(ServiceError):
    """No model that could answer, or its last inference failed."""

    slug, title, status, retry_after_s = "not-ready", "Not ready", HTTPStatus.SERVICE_UNAVAILABLE, 1


class Draining(ServiceError):
    """The process is about to stop."""

    slug, title, status, retry_after_s = "draining", "Draining", HTTPStatus.SERVICE_UNAVAILABLE, 1


class DeadlineExceeded(ServiceError):
    """The request's time was up."""

    slug, title, status = "deadline-exceeded", "Deadline exceeded", HTTPStatus.GATEWAY_TIMEOUT


class StorageFailed(ServiceError):
    """Where batches or choices are kept is full, or closed to the service; what was accepted waits for mending."""

    slug, title, status, retry_after_s = "storage-failed", "Storage failed", HTTPStatus.INSUFFICIENT_STORAGE, 60


class StorageBusy(StorageFailed):
    """Another process keeps the list of batches to itself; nothing was changed."""

    retry_after_s = 5


class StorageDamaged(StorageFailed):
    """The list of batches is no whole database any more; room on the disk does not help it."""


class InferenceFailed(ServiceError):
    """The model failed on these images; the cause is in the log under the request's id."""


class DeviceLost(InferenceFailed):
    """The device has failed for good, and the process that used it is about to stop: the images are not to blame."""

    slug, title, status, retry_after_s = Draining.slug, Draining.title, Draining.status, 1

    def __init__(
        self, detail: str = "The device has failed and the process is stopping; send the request again in a moment."
    ) -> None:  # with `detail`, as unpickling gives it
        super().__init__(detail)
