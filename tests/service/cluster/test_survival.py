"""A node and the driver of a batch on Ray are killed: the rows are those of an undisturbed run, to the byte.

`CONVOY_TEST_KILLS=5 pytest tests/service/cluster/test_survival.py -s` is the long form, and prints what it saw. By its
name it comes after the other tests of this folder: the node that it adds is none that they have to wait for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from PIL import Image

from tests.cluster import ENVIRONMENT, LocalCluster
from tests.conftest import encode
from tests.service.jobs.packing import as_zip
from training.golden import pictures

KILLS = int(os.environ.get("CONVOY_TEST_KILLS", "1"))
ARCHIVES = 2
IMAGES = 2500 * (1 + KILLS)  # of both archives
BEGIN_S = 600.0  # Ray needs seconds to begin, on a machine with other work minutes


def command(archives: list[Path], output: Path, *words: str) -> list[str]:
    model = ["--model", "tutorial-cnn", "--device", "cpu"]
    return [sys.executable, "-m", "service", "score", *map(str, archives), "--output", str(output), *model, *words]


def rows(output: Path) -> int:
    """How many rows are written, certain or not."""
    partial = output.with_name(output.name + ".partial")
    return partial.read_bytes().count(b"\n") if partial.exists() else 0


def wait_for_rows(process: subprocess.Popen[bytes], output: Path, wanted: int) -> None:
    """Until there are so many rows, or no more to come."""
    deadline = time.monotonic() + BEGIN_S
    while process.poll() is None and rows(output) < wanted and time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)


def test_whatever_is_killed_no_row_is_lost_and_none_is_doubled(cluster: LocalCluster, tmp_path: Path) -> None:
    some = [encode(Image.fromarray(picture)) for picture in pictures(32, 32, count=100, seed=3)]
    some[17] = b"no image"
    archives = [tmp_path / f"{number}.zip" for number in range(ARCHIVES)]
    for archive in archives:
        archive.write_bytes(as_zip((f"{i:06}.png", some[i % len(some)]) for i in range(IMAGES // ARCHIVES)))
    whole, output = tmp_path / "whole.ndjson", tmp_path / "out.ndjson"
    began = time.monotonic()
    subprocess.run(command(archives, whole), check=True)
    print(f"{IMAGES:,} images without Ray: {time.monotonic() - began:.1f} s")
    cluster.add_node(1)
    assert run_with_deaths(cluster, command(archives, output, "--engine", "ray", "--address", cluster.address), output)
    assert output.read_bytes() == whole.read_bytes()
    assert output.read_bytes().count(b"\n") == IMAGES


def run_with_deaths(cluster: LocalCluster, words: list[str], output: Path) -> int:
    """Run until the output is whole; the driver is killed `KILLS` times, then a node. Returns how many struck."""
    struck = 0
    for attempt in range(KILLS + 1):
        began, before = time.monotonic(), rows(output)
        with subprocess.Popen(words, env=os.environ | ENVIRONMENT) as process:
            wait_for_rows(process, output, before + 1024)
            if process.poll() is None:
                struck += 1
                if attempt < KILLS:
                    process.send_signal(signal.SIGKILL)
                else:
                    cluster.kill(0)
            process.wait()
        what = "driver" if attempt < KILLS else "node"
        left = "" if output.exists() else f" {rows(output):,} left,"
        print(f"{what} killed; began with {before:,} rows,{left} {time.monotonic() - began:.1f} s")
        if output.exists():
            break
    return struck
