"""A request's message → pictures; predictions → an answer's message. Raises as `tensors.read` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from service.api.open_inference import tensors
from service.api.open_inference.bodies import InferRequest
from service.api.open_inference.tensors import Inference
from service.errors import MalformedRequest
from service.metadata import OUTPUT
from service.prediction import ModelIdentity, Prediction
from service.rpc.open_inference_pb2 import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
    ModelRepositoryParameter,
)
from service.settings import Settings


def read(message: ModelInferRequest, settings: Settings) -> Inference:
    """What the client asks for, its input sent raw or as the message's numbers."""
    inputs = [
        {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "datatype": tensor.datatype,
            "parameters": parameters(tensor.parameters),
        }
        for tensor in message.inputs[:2]  # more than one is one too many, however many there are
    ]
    asked = InferRequest.of(
        {
            "id": message.id or None,
            "parameters": parameters(message.parameters),
            "inputs": inputs,
            "outputs": [
                {"name": wanted.name, "parameters": parameters(wanted.parameters)} for wanted in message.outputs[:2]
            ],
        }
    )
    tensor, sent = asked.inputs[0], message.inputs[0]
    if len(message.raw_input_contents) > 1 or bool(message.raw_input_contents) == sent.HasField("contents"):
        raise MalformedRequest("An input has either contents, or its bytes as the one element of raw_input_contents.")
    raw = message.raw_input_contents[0] if message.raw_input_contents else _packed(tensor.datatype, sent.contents)
    tensor.parameters["binary_data_size"] = len(raw)
    return tensors.inference(asked, memoryview(raw), settings)


def write(model: ModelIdentity, asked: Inference, outcomes: list[Prediction]) -> ModelInferResponse:
    """The answer, its output raw, as Triton's is."""
    told = tensors.output(asked, outcomes)
    tensor = ModelInferResponse.InferOutputTensor(name=OUTPUT, datatype=told.datatype, shape=told.shape)
    return ModelInferResponse(
        model_name=model.name,
        model_version=model.version,
        id=asked.id or "",
        outputs=[tensor],
        raw_output_contents=[told.packed()],
    )


def parameters(given: Mapping[str, InferParameter] | Mapping[str, ModelRepositoryParameter]) -> dict[str, Any]:
    """The parameters' values; one that is empty is none."""
    chosen = {name: (value, value.WhichOneof("parameter_choice")) for name, value in given.items()}
    return {name: getattr(value, choice) for name, (value, choice) in chosen.items() if choice}


def _packed(datatype: str, contents: InferTensorContents) -> bytes:
    """The same tensor raw; what is in none of the fields of its datatype is no data."""
    if datatype == "BYTES":
        return tensors.pack(contents.bytes_contents)
    numbers = np.fromiter(contents.uint_contents, np.uint32, len(contents.uint_contents))
    if numbers.size and numbers.max() > 255:
        raise MalformedRequest("uint_contents of a UINT8 tensor must be whole numbers from 0 to 255.")
    return numbers.astype(np.uint8).tobytes()
