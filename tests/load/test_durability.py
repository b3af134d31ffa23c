"""One batch, all processes of the server killed again and again: its rows are those of an undisturbed run, to the byte.

`CONVOY_TEST_KILLS=20 pytest tests/load/test_durability.py` is the long form.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from PIL import Image

from service.settings import Settings
from tests.conftest import encode
from tests.service.jobs.packing import as_zip
from training.golden import pictures

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("CONVOY_TEST_KILLS", "3"))
IMAGES = 2000 + 2000 * KILLS
SETTINGS = {f"CONVOY_{name.upper()}" for name in Settings.model_fields}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in SETTINGS}


@contextmanager
def server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`convoy serve` with two workers; yields it and its address. Nothing of it is left in the end."""
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "service", "serve", "--port=0", "--workers=2", "--device=cpu",
                "--default-model=tutorial-cnn", f"--jobs-dir={folder / 'jobs'}",
            ],
            stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, env=ENVIRONMENT,
        )  # fmt: skip
        try:
            assert process.stdout
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            assert found, (folder / "server.log").read_text()
            yield process, found[0]
        finally:
            kill_all(process)
            process.communicate()


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the parent first, so that it starts no more workers, then to them and what they have started."""
    family = [process.pid]
    for pid in family:
        with contextlib.suppress(FileNotFoundError):
            family += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def undisturbed(archive: Path, folder: Path) -> bytes:
    """The same images' rows from the command line."""
    output = folder / "undisturbed.ndjson"
    words = ["score", str(archive), "--output", str(output), "--model", "tutorial-cnn", "--device", "cpu"]
    subprocess.run([sys.executable, "-m", "service", *words], check=True, cwd=ROOT, env=ENVIRONMENT)
    return output.read_bytes()


def watch(url: str, until_done: int) -> bool:
    """Follow the batch's events until so many images are done; whether it has ended."""
    with httpx2.stream("GET", f"{url}/events", timeout=120) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                batch = json.loads(line.removeprefix("data: "))
                assert batch["status"] != "failed", batch
                if batch["finished_at"] or batch["counts"]["done"] >= until_done:
                    return batch["finished_at"] is not None
    return False


def test_whenever_it_is_killed_no_row_is_lost_and_none_is_doubled(tmp_path: Path) -> None:
    some = [encode(Image.fromarray(picture)) for picture in pictures(32, 32, count=100, seed=3)]
    archive = tmp_path / "pictures.zip"
    archive.write_bytes(as_zip((f"{i:06}.png", some[i % len(some)]) for i in range(IMAGES)))
    chance, path, kills, ended = random.Random(5), "", 0, False
    while not ended:
        with server(tmp_path) as (process, url):
            if not path:
                headers = {"content-type": "application/zip"}
                answer = httpx2.post(f"{url}/v1/batches", content=archive.read_bytes(), headers=headers, timeout=60)
                assert answer.status_code == 202
                path = answer.headers["location"]
                done = 0  # the first death comes before the upload has been read
            else:
                done = httpx2.get(f"{url}{path}").json()["counts"]["done"] + chance.randrange(1000)
            ended = watch(f"{url}{path}", IMAGES if kills >= KILLS else done)
            if ended:
                rows = httpx2.get(f"{url}{path}/results").content
            else:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(0, 0.3))
                kills += 1
    print(f"{kills} times killed")
    assert kills  # how many more there were is a matter of speed
    assert rows == undisturbed(archive, tmp_path)
    assert rows.count(b"\n") == IMAGES
