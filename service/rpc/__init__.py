"""The Open Inference Protocol, version 2, over gRPC: the same models and queues as over HTTP, on a port of its own.

Specification: kserve/open-inference-protocol, specification/protocol/inference_grpc.md; what Triton's clients ask for
besides (configuration, statistics, the index) is in Triton's own `grpc_service.proto`. `open_inference_pb2.py` and its
types are generated from `open_inference.proto` by `make proto`.
"""

import os

# Before gRPC's core is loaded, which reads it there: at each start of a process it would write a line that is no JSON
os.putenv("GRPC_ENABLE_FORK_SUPPORT", "false")
