"""The command line `convoy`: serve."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

import uvicorn

from service import telemetry
from service.app import create_app
from service.classifier import Classifier
from service.errors import StartupError
from service.settings import Settings, load

EXAMPLE = Path(__file__).parent / "web" / "example.png"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; what keeps it from running is one sentence on stderr and exit status 1."""
    options = parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except StartupError as exc:
        print(f"convoy: {exc}", file=sys.stderr)
        return 1
    return status


def parser() -> argparse.ArgumentParser:
    """The command line's grammar; the flags of `serve` are the fields of `Settings`."""
    top = argparse.ArgumentParser(prog="convoy", description="Serve image classifiers.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve the models over HTTP", argument_default=argparse.SUPPRESS)
    for name, setting in Settings.model_fields.items():
        serve.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            help=f"{setting.description} (default: {setting.default})",
        )
    serve.set_defaults(run=_serve)
    return top


def _serve(options: argparse.Namespace) -> int:
    given = {name: value for name, value in vars(options).items() if name in Settings.model_fields}
    try:
        settings = load(given)
    except ValueError as exc:
        raise StartupError(str(exc)) from exc
    telemetry.configure(settings.log_format)
    with listen(settings.host, settings.port) as listener:  # before the models: a taken port is known at once
        app = create_app(settings)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # RequestLog writes it, with the request's id
            server_header=False,
            timeout_keep_alive=settings.keep_alive_ms // 1000,
            timeout_graceful_shutdown=max(1, settings.drain_timeout_ms // 1000),
        )
        server = Server(config, app.state.classifier)
        server.run(sockets=[listener])
    return 0 if server.started else 1


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; who connects early waits until the models are loaded.

    Raises `StartupError` when the address can't be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as exc:
        reason = str(exc.strerror).partition(" (")[0]  # the rest repeats the address
        raise StartupError(
            f"Can't listen on {host} port {port}: {reason}. "
            "Choose others with --host and --port (or CONVOY_HOST and CONVOY_PORT)."
        ) from exc


class Server(uvicorn.Server):
    """uvicorn's server, which says where it listens and turns unready before it stops."""

    def __init__(self, config: uvicorn.Config, classifier: Classifier) -> None:
        super().__init__(config)
        self._classifier = classifier

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Open the port, then print the address and a request to try."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            print(
                f"Convoy serves at {url} (documentation: {url}/docs). Try:\n  {example_request(url)}",
                flush=True,
            )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature is uvicorn's
        """SIGTERM and SIGINT: unready, no new connections, finish what runs; a second SIGINT ends at once."""
        self._classifier.draining = True
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True  # uvicorn's own method would raise the signal again at the end: not a clean exit


def example_request(url: str) -> str:
    """A curl line that works from the current folder."""
    picture = EXAMPLE if not EXAMPLE.is_relative_to(Path.cwd()) else EXAMPLE.relative_to(Path.cwd())
    return f"curl -F images=@{shlex.quote(os.fspath(picture))} '{url}/v1/predict?top_k=3'"


if __name__ == "__main__":
    sys.exit(main())
