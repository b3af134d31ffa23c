"""The Open Inference Protocol, version 2: what clients of Triton, KServe and MLServer speak.

Specification: kserve/open-inference-protocol, specification/protocol/inference_rest.md; Triton's extensions for binary
tensors, classification, scheduling, model configuration, the model repository and statistics.
"""
