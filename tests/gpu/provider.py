"""What runs the model is what was asked for: no node elsewhere, no silent fallback, and everybody is told."""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import onnxruntime

from service import cuda
from service.metadata import ModelMetadata, Precision
from service.providers import NOT_BUILT, PROVIDERS
from tests.gpu.report import Row, holds
from tests.gpu.serving import server
from tests.gpu.steps import Skip
from tests.gpu.subject import Context, model_file, model_folder

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
HIDDEN = "no GPU is visible"
UNUSABLE = "CUDAExecutionProvider can't be used: "


def placement(context: Context) -> Iterator[Row]:
    """Which provider each node is on, by ONNX Runtime's own account."""
    yield Row("provider", PROVIDERS[context.device].name, note=context.without_cuda or "")
    yield Row("ONNX Runtime", onnxruntime.__version__)
    for precision in PRECISIONS:
        places = _places(context, precision)
        said = ", ".join(f"{count} on {name}" for name, count in sorted(places.items()))
        yield holds(f"{precision}: every node is on it", set(places) == {PROVIDERS[context.device].name}, said)


def _places(context: Context, precision: Precision) -> dict[str, int]:
    options, provider = onnxruntime.SessionOptions(), PROVIDERS[context.device]
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    of = onnxruntime.InferenceSession(
        str(model_file(context, precision)), options, providers=[(provider.name, dict(provider.options))],
        enable_fallback=False,
    )  # fmt: skip
    places: dict[str, int] = {}
    for part in of.get_provider_graph_assignment_info():
        places[part.ep_name] = places.get(part.ep_name, 0) + len(part.get_nodes())
    return places


def hidden_device(context: Context) -> Iterator[Row]:
    """No GPU is visible to the server: on a machine without one that is so anyhow."""
    expected = HIDDEN if context.device == "cuda" else _reason(context)
    yield from _refused(context, expected, CUDA_VISIBLE_DEVICES="")
    aloud = "this build of ONNX Runtime has no CUDA" if expected == NOT_BUILT else f"{UNUSABLE}{expected}"
    yield from _falls_back(context, aloud, CUDA_VISIBLE_DEVICES="")


def missing_library(context: Context) -> Iterator[Row]:
    """The server finds ONNX Runtime, and not CUDA's libraries."""
    context.need_cuda()
    package, site = Path(onnxruntime.__file__).parent, context.work / "alone"
    site.mkdir(exist_ok=True)
    if not (site / package.name).exists():
        (site / package.name).symlink_to(package)  # beside which there is no `nvidia`
    paths = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    expected = "libraries are missing"
    try:
        yield from _refused(context, expected, PYTHONPATH=paths, LD_LIBRARY_PATH="")
    except AssertionError as exc:
        raise Skip("CUDA's libraries are where the dynamic linker always looks, and can't be hidden") from exc
    yield from _falls_back(context, f"{UNUSABLE}{expected}", PYTHONPATH=paths, LD_LIBRARY_PATH="")


def _reason(context: Context) -> str:
    assert context.without_cuda
    return context.without_cuda if "build" not in context.without_cuda else NOT_BUILT


def _refused(context: Context, expected: str, **environment: str) -> Iterator[Row]:
    """`--device cuda` must not start."""
    try:
        with server(context, 1, device="cuda", **environment):
            pass
    except ChildProcessError as exc:
        said = str(exc)
        yield holds("--device cuda is refused in one sentence", "--device cuda can't be had" in said, said[-160:])
        yield holds("which names the reason", expected in said, expected)
    else:
        raise AssertionError("--device cuda started without CUDA")


def _falls_back(context: Context, aloud: str, **environment: str) -> Iterator[Row]:
    """`--device auto` must serve, on the CPU, and say so in the words `aloud`."""
    with server(context, 1, device="auto", **environment) as served:
        ready = json.loads(_get(served.target.port, "/readyz"))
        yield holds("--device auto serves on the CPU", ready["provider"] == "CPUExecutionProvider", str(ready))
    log = (context.work / "server.log").read_text(encoding="utf-8")
    yield holds("and says aloud why", aloud in log)


def said(context: Context) -> Iterator[Row]:
    """What a client, a probe and Prometheus are told."""
    name, precision = PROVIDERS[context.device].name, best_precision(context)
    with server(context, 1) as served:
        port = served.target.port
        ready, models = json.loads(_get(port, "/readyz")), json.loads(_get(port, "/v1/models"))
        metrics = _get(port, "/metrics")
    yield holds("/readyz", (ready["provider"], ready["precision"]) == (name, precision), str(ready))
    (default,) = (model for model in models["models"] if model["default"])
    found = {(version["provider"], version["precision"]) for version in default["versions"]}
    yield holds("/v1/models", found == {(name, precision)}, str(found))
    line = next((each for each in metrics.splitlines() if each.startswith("convoy_model_info{")), "")
    told = f'provider="{name}"' in line and f'precision="{precision}"' in line
    yield holds("/metrics", told, line[-80:])


def best_precision(context: Context) -> Precision:
    """What the service should choose among the files that the model has."""
    files = ModelMetadata.read(model_folder(context)).files
    return next(each for each in PROVIDERS[context.device].precisions() if each in files)


def _get(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


assert sys.platform == "linux" or cuda.missing()  # CUDA's libraries go by other names elsewhere
