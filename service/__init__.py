"""Serves image classifiers: bytes → image → tensor → batch → probabilities → response."""

import os

# ONNX Runtime's builds report to Microsoft unless told not to before they are loaded.
os.putenv("ORT_DISABLE_TELEMETRY", "1")
