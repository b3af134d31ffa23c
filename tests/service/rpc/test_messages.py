"""Messages, whatever is in them, are requests or errors."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from service.errors import MalformedRequest, ServiceError
from service.prediction import ModelIdentity, predictions
from service.rpc import messages
from service.rpc.open_inference_pb2 import InferParameter, InferTensorContents, ModelInferRequest
from service.settings import Settings

IDENTITY = ModelIdentity(name="colours", version="2", digest="0", labels=("red", "green"))
sizes = st.integers(-2, 4) | st.integers(-(2**63), 2**63 - 1)
numbers = st.lists(st.integers(0, 300), max_size=12)
texts = st.lists(st.binary(max_size=8), max_size=3)
contents = st.builds(InferTensorContents, uint_contents=numbers, bytes_contents=texts)
parameters = st.dictionaries(
    st.sampled_from(["timeout", "priority", "classification", "binary_data", "binary_data_size", "other"]),
    st.builds(InferParameter)
    | st.builds(InferParameter, bool_param=st.booleans())
    | st.builds(InferParameter, int64_param=st.integers(-3, 3))
    | st.builds(InferParameter, string_param=st.text(max_size=3))
    | st.builds(InferParameter, double_param=st.floats()),
    max_size=2,
)
inputs = st.builds(
    ModelInferRequest.InferInputTensor,
    name=st.sampled_from(["image", "x"]),
    datatype=st.sampled_from(["UINT8", "BYTES", "FP32", ""]),
    shape=st.lists(sizes, max_size=4),
    parameters=parameters,
    contents=st.none() | contents,
)
outputs = st.builds(
    ModelInferRequest.InferRequestedOutputTensor, name=st.sampled_from(["probabilities", "y"]), parameters=parameters
)
requests = st.builds(
    ModelInferRequest,
    id=st.text(max_size=2),
    parameters=parameters,
    inputs=st.lists(inputs, max_size=2),
    outputs=st.lists(outputs, max_size=2),
    raw_input_contents=st.lists(st.binary(max_size=16), max_size=2),
)


@examples(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=requests)
def test_a_random_message_is_a_request_or_an_error(settings: Settings, message: ModelInferRequest) -> None:
    with suppress(ServiceError):
        assert messages.read(message, settings).pictures is not None


@pytest.mark.parametrize("classes", [0, 1])
def test_an_answer_is_raw(settings: Settings, classes: int) -> None:
    wanted = ModelInferRequest.InferRequestedOutputTensor(
        name="probabilities", parameters={"classification": InferParameter(int64_param=classes)}
    )
    image = ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=[1, 1, 1, 3])
    request = ModelInferRequest(id="7", inputs=[image], outputs=[wanted], raw_input_contents=[b"\xff\0\0"])
    asked = messages.read(request, settings)
    answer = messages.write(IDENTITY, asked, predictions(IDENTITY, np.array([[0.75, 0.25]], np.float32)))
    (output,) = answer.outputs
    if classes:
        assert (output.datatype, list(output.shape)) == ("BYTES", [1, 1])
        assert answer.raw_output_contents == [b"\x0e\0\0\x000.750000:0:red"]
    else:
        assert (output.datatype, list(output.shape)) == ("FP32", [1, 2])
        assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [0.75, 0.25]
    assert (answer.model_name, answer.model_version, answer.id) == ("colours", "2", "7")


def test_an_empty_message_is_malformed(settings: Settings) -> None:
    with pytest.raises(MalformedRequest, match="inputs"):
        messages.read(ModelInferRequest(), settings)
