"""Serves image classifiers: bytes → image → tensor → batch → probabilities → response.

Where to look:

- the flow: `classifier` first (`turns`, `shares`), then `preparation` (`decoding`, `pixels`, `preprocessing`),
  `batching` (`queueing`, `pace`, `deadlines`, `bisection`, `observer`), `engine` (`providers`, `cuda`, `binding`),
  `prediction` (`coverage`)
- the models: `metadata`, `loading`, `repository`, `serving`, `choices`, `administration`
- what a network sees: `explain` (`stages`, `drawing`)
- HTTP: `api`, one file for each route; below it `protocol`, `heads` and `exchange`, which carry the hottest past ASGI
- other ways in: `rpc` (gRPC), `jobs` (batch scoring), `client`, `cluster` (Ray), `web` (the page)
- the parts put together: `app`; processes and sockets: `__main__`, `command`, `streams`, `supervisor`,
  `accepting`, `channel`, `worker`, `server`, `listening`, `event_loop`, `counters`
- what the operator decides and sees: `settings`, `keys`, `cores`, `metrics`, `telemetry`, `bench`, `deploy`
- leaves: `errors`, `types`
"""

import os

# ONNX Runtime's builds report to Microsoft unless told not to before they are loaded.
os.putenv("ORT_DISABLE_TELEMETRY", "1")
