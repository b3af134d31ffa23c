"""Serves image classifiers: bytes → image → tensor → batch → probabilities → response."""

import os

os.putenv(
    "ORT_DISABLE_TELEMETRY", "1"
)  # ONNX Runtime's builds report to Microsoft unless told so before they are loaded
