"""What a client asks for → predictions, over HTTP and over gRPC."""

from __future__ import annotations

from service.api.open_inference.tensors import Inference
from service.classifier import Classifier
from service.errors import DeviceLost, EmptyRequest
from service.prediction import Prediction
from service.queueing import Priority
from service.serving import Served
from service.settings import Settings


def longest_ms(asked: Inference, settings: Settings) -> float:
    """How long the answer may take, by what the client and the settings say."""
    return min(asked.timeout_us / 1000 or settings.request_timeout_ms, settings.request_timeout_ms)


async def infer(classifier: Classifier, asked: Inference, model: Served, deadline: float) -> list[Prediction]:
    """A prediction for each picture, or for none of them: raises `ServiceError`, that of the first that is bad.

    `deadline` is on the event loop's clock.
    """
    if not len(asked.pictures):
        raise EmptyRequest("The request holds no image; send at least one.")
    priority = Priority.BULK if asked.priority > 1 else Priority.INTERACTIVE
    outcomes = await classifier.classify(asked.pictures, model=model, deadline=deadline, priority=priority)
    predicted: list[Prediction] = []
    for place, outcome in enumerate(outcomes):
        if isinstance(outcome, Prediction):
            predicted.append(outcome)
        elif len(outcomes) == 1 or isinstance(outcome, DeviceLost):  # which is no image's fault
            raise outcome
        else:
            raise type(outcome)(f"Image {place}: {outcome.detail}")
    return predicted
