"""`convoy bench`: its options, and one run from them."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from service.bench import bounds, report, requests, stages
from service.bench.load import Load, Outcome, Target, Unreachable
from service.errors import StartupError
from service.event_loop import Loop
from service.keys import read_keys
from service.streams import say


def add_options(parser: argparse.ArgumentParser, *, example: Path) -> None:
    """The command line's grammar."""
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000", help="of the server (default: %(default)s)")
    parser.add_argument(
        "--image", type=Path, default=example, help="an image, or a folder of them (default: a drawing)"
    )
    parser.add_argument("--bulk", type=bounds.images, metavar="N", help="N images per request, as .npy, instead of one")
    parser.add_argument(
        "--size",
        type=bounds.pixels,
        metavar="PIXELS",
        help="resize the images to PIXELS × PIXELS (default: as they are; with --bulk, 32)",
    )
    parser.add_argument(
        "--connections", type=bounds.connections, default=64, metavar="N", help="at a time (default: 64)"
    )
    parser.add_argument(
        "--rate",
        type=bounds.requests_per_second,
        metavar="N",
        help="open loop: N requests per second, come what may",
    )
    parser.add_argument("--seconds", type=bounds.seconds, default=10.0, metavar="S", help="how long (default: 10)")
    parser.add_argument(
        "--deadline-ms", type=bounds.milliseconds, metavar="MS", help="of each request (default: the server's)"
    )
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="holds the key that the server asks for")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Put the load on, show what came of it; status 1 when not one request was answered with 200.

    Raises `StartupError` where that can't be, be it only for want of a key.
    """
    try:
        target = Target.of(options.url)
        images = requests.read_images(options.image)
        key = read_keys(options.api_key_file)[0] if options.api_key_file else None
        head = requests.Head(target.authority, deadline_ms=options.deadline_ms, key=key)
        if options.bulk:
            bodies = requests.bulk(images, options.bulk, head, size=options.size or 32)
        else:
            bodies = requests.single(requests.resized(images, options.size) if options.size else images, head)
        before = stages.read(target.host, target.port)
        load = Load(target, bodies, options.bulk or 1, options.connections)
        with asyncio.Runner(loop_factory=Loop) as runner:
            outcome: Outcome = runner.run(
                load.open(options.seconds, options.rate, report.progress)
                if options.rate
                else load.closed(options.seconds, report.progress)
            )
    except (Unreachable, ValueError) as exc:
        raise StartupError(str(exc)) from exc
    if outcome.shut_out:
        missing = f"does not know the key in {options.api_key_file}" if key else "asks for a key"
        raise StartupError(f"The server {missing} (status {min(outcome.statuses)}); give it one with --api-key-file.")
    where = stages.table(before, stages.read(target.host, target.port))
    plot = report.plot(outcome, sys.stdout.encoding)
    parts = (report.table(outcome), plot, where and f"On the server, per request:\n{where}")
    say("\n\n".join(filter(None, parts)))
    return 0 if outcome.statuses[200] else 1
