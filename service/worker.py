"""`python -m service.worker CHANNEL COUNTERS STRIP TELLS`: one copy of the service, started by the supervisor alone.

Its settings come as JSON on stdin: command lines are for everyone to see.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import socket
import sys

from service import telemetry
from service.app import create_app
from service.channel import Channel
from service.counters import Counters
from service.errors import StartupError
from service.server import WorkerServer
from service.settings import Settings


def main(channel: int, counters: int, strip: int, tells: int) -> int:
    """Serve until the parent says otherwise; status 1, and if it `tells` a sentence on stderr, where it can't start."""
    for number in (signal.SIGINT, signal.SIGHUP):  # to all processes at once: what it means the parent says
        signal.signal(number, signal.SIG_IGN)
    settings = Settings.model_validate_json(sys.stdin.read())
    telemetry.configure(settings.log_format)
    try:
        app = create_app(settings, Counters(mmap.mmap(counters, 0), strip), strip)
    except StartupError as exc:
        if tells:
            print(f"convoy: {exc}", file=sys.stderr)  # noqa: T201 - as the command line would
        return 1
    server = WorkerServer(
        app, app.state.served, settings, Channel(socket.socket(fileno=channel)), app.state.administration, app.rpc
    )
    server.run()
    if server.lost:  # tidying up would touch what is broken, and may hang there
        logging.shutdown()
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
