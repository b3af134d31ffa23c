"""The command line `convoy`: serve, score, bench, tune."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from service import telemetry
from service.cores import default_workers, may_use_gpu
from service.errors import StartupError
from service.listening import allow_open_files, listen, shared
from service.streams import finish_streams, open_streams, say, tell

if TYPE_CHECKING:  # what takes its time is imported when signals are taken care of
    from service.jobs.score import Engine
    from service.settings import Settings

EXAMPLE = Path(__file__).parent / "web" / "example.png"
logger = logging.getLogger(__name__)


def run(arguments: list[str]) -> int:
    """Run one command; what keeps it from running is one sentence on stderr and exit status 1."""
    command = arguments[0] if arguments else None
    if command == "serve" and sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # it waits for who reads the models, and ends nobody
    open_streams()
    try:
        options = parser(command).parse_args(arguments)
        status: int = options.run(options)
        return status
    except StartupError as exc:
        tell(f"convoy: {exc}")
        return 1
    finally:
        finish_streams()


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The command line's grammar; the flags of `serve` are the fields of `Settings`.

    Where `command` is one, the others have no options: a server starts sooner without what they import.
    """
    top = argparse.ArgumentParser(prog="convoy", description="Serve image classifiers.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, (description, add_options) in COMMANDS.items():
        subparser = commands.add_parser(
            name, help=description, description=f"{description[:1].upper()}{description[1:]}."
        )
        if name == command or command not in COMMANDS:
            add_options(subparser)
    return top


def _add_serve(serve: argparse.ArgumentParser) -> None:
    from service.settings import Settings, metavar

    for name, setting in Settings.model_fields.items():
        serve.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            default=argparse.SUPPRESS,
            metavar=metavar(name),
            help=f"{setting.description} (default: {setting.default})",
        )
    serve.add_argument(
        "--settings",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="settings as NAME=VALUE lines, as `tune` writes them",
    )
    serve.epilog = "Each is also a variable, CONVOY_PORT for --port; what is given here comes first."
    serve.set_defaults(run=_serve)


def _add_score(score: argparse.ArgumentParser) -> None:
    from service.jobs.command import add_options

    add_options(score, {"processes": _processes, "ray": _ray})


def _add_bench(bench: argparse.ArgumentParser) -> None:
    from service.bench.command import add_options

    add_options(bench, example=EXAMPLE)


def _add_tune(tune: argparse.ArgumentParser) -> None:
    from service.bench.tune import add_options

    add_options(tune, example=EXAMPLE)


COMMANDS = {
    "serve": ("serve the models over HTTP", _add_serve),
    "score": ("classify whole folders, archives and tables, without a server", _add_score),
    "bench": ("put load on a running server, and show how fast it answers", _add_bench),
    "tune": ("try settings of a server on this machine, and write the best to a file", _add_tune),
}


def _processes(address: str | None) -> Engine:
    if address:
        raise StartupError("--address is that of a Ray cluster; add --engine ray, or leave it out.")
    _need_onnx_runtime()
    from service.jobs.score import processes

    return processes


def _ray(address: str | None) -> Engine:
    _need_onnx_runtime()
    try:
        from service.cluster.score import engine
    except ModuleNotFoundError as exc:
        raise StartupError("Ray is not installed here; in the checkout: pip install '.[cpu,cluster]'") from exc
    return engine(address)


def _need_onnx_runtime() -> None:
    """Raise `StartupError` where it is missing: an extra, since there is one for the CPU and another for GPUs."""
    if find_spec("onnxruntime") is None:
        raise StartupError(
            "ONNX Runtime is not installed here; in the checkout: pip install '.[cpu]', or '.[gpu]' for an NVIDIA GPU"
        )


def _serve(options: argparse.Namespace) -> int:
    from service.settings import Settings, load, unknown_variables

    _need_onnx_runtime()
    given = {name: value for name, value in vars(options).items() if name in Settings.model_fields}
    try:
        settings = load(given, file=getattr(options, "settings", None))
    except ValueError as exc:
        raise StartupError(str(exc)) from exc
    telemetry.configure(settings.log_format)
    _check_jobs_dir(settings.jobs_dir)
    allow_open_files()
    if slips := unknown_variables():
        logger.warning("these variables are no settings and change nothing: %s", ", ".join(slips))
    with (  # before the models: a taken port is known at once
        listen(settings.host, settings.port) as listener,
        shared(settings.host, settings.grpc_port) as grpc_port,
    ):
        count = settings.workers or default_workers(settings.device)
        settings = settings.model_copy(update={"grpc_port": grpc_port, "workers": count})
        if count == 1 and not may_use_gpu(settings.device):  # which, once failed, only a new process gets back
            return _serve_here(settings, listener)
        return _serve_in_workers(settings, listener, count)


def _check_jobs_dir(folder: Path) -> None:
    """Raise `StartupError` where it can be no folder; one that can't be written now may be, once it is mended."""
    nearest = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.access(each, os.F_OK))
    if not nearest.is_dir():
        raise StartupError(
            f"Batches can't be kept in {folder}: {nearest} is no folder. Choose another with --jobs-dir (or "
            "CONVOY_JOBS_DIR)."
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        logger.warning("batches can't be kept in %s, and are refused: %s can't be written", folder, nearest)


def _serve_in_workers(settings: Settings, listener: socket.socket, count: int) -> int:
    import asyncio

    from service.supervisor import Supervisor

    return asyncio.run(
        Supervisor(
            listener,
            settings.model_dump_json().encode(),
            count=count,
            lame_duck_s=settings.lame_duck_ms / 1000,
            drain_timeout_s=settings.drain_timeout_ms / 1000,
            announce=lambda: announce(listener, settings.grpc_port),
        ).run()
    )


def _serve_here(settings: Settings, listener: socket.socket) -> int:
    from service.app import create_app  # with many workers the parent needs none of it
    from service.server import Server

    app = create_app(settings)
    server = Server(
        app, app.state.served, settings, rpc=app.rpc, announce=lambda: announce(listener, settings.grpc_port)
    )
    server.run(sockets=[listener])
    return 0 if server.started and not server.lost else 1


def announce(listener: socket.socket, grpc_port: int | None) -> None:
    """Say the address and a request to try, in the log where stdout can't: the server serves all the same."""
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    url = f"http://{host}:{port}"
    grpc = "" if grpc_port is None else f"; gRPC: {host}:{grpc_port}"
    try:
        say(f"Convoy serves at {url} (documentation: {url}/docs{grpc}). Try:\n  {example_request(url)}")
    except StartupError as exc:
        logger.warning("serving at %s%s; %s", url, grpc, exc)


def example_request(url: str) -> str:
    """A curl line that works from the current folder."""
    picture = EXAMPLE if not EXAMPLE.is_relative_to(Path.cwd()) else EXAMPLE.relative_to(Path.cwd())
    return f"curl -F images=@{shlex.quote(os.fspath(picture))} '{url}/v1/predict?top_k=3'"
