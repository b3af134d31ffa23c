"""One batch, all processes of the server killed again and again: its rows are those of an undisturbed run, to the byte.

`CONVOY_TEST_KILLS=20 pytest tests/load/test_durability.py` is the long form.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import httpx2
from PIL import Image

from tests.conftest import encode
from tests.processes import running
from tests.service.jobs.packing import as_zip
from training.golden import pictures

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("CONVOY_TEST_KILLS", "3"))
IMAGES = 2000 + 2000 * KILLS
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("CONVOY_")}


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
        with running(ROOT / "models", default_model="tutorial-cnn", jobs_dir=str(tmp_path / "jobs")) as convoy:
            url = convoy.url
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
                    convoy.process.wait(chance.uniform(0, 0.3))
                convoy.kill()
                kills += 1
    print(f"{kills} times killed")
    assert kills  # how many more there were is a matter of speed
    assert rows == undisturbed(archive, tmp_path)
    assert rows.count(b"\n") == IMAGES
