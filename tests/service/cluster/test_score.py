"""`convoy score --engine ray` on a local cluster: the rows of `convoy score`, to the byte."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.exceptions import RayError

from service.__main__ import main
from service.cluster import score as cluster_score
from service.jobs.endings import INTERRUPTED
from service.jobs.score import Done, Run
from service.jobs.scoring import Scored
from tests.cluster import ENVIRONMENT, LocalCluster
from tests.conftest import COLOURS, clear_environment, encode, picture
from tests.service.jobs.packing import PACKERS, write_folder

COUNT = 700
PICTURES = [(f"{COLOURS[i % 3]}/{i:05}.png", encode(picture(COLOURS[i % 3]))) for i in range(COUNT)]
BAD = ("red/99999.png", b"no image")
FREE = {name: value for name, value in os.environ.items() if not name.startswith(("CONVOY_", "RAY_"))}


def score(*words: str | Path, models_dir: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    model = ["--models-dir", str(models_dir), "--model", "colours", "--device", "cpu"]
    return subprocess.run(
        [sys.executable, "-m", "service", "score", *map(str, words), *model],
        capture_output=True, text=True, check=False, env=FREE | ENVIRONMENT | environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An archive, a single image, and a folder with one that is none."""
    folder = tmp_path_factory.mktemp("inputs")
    archive, single = folder / "pictures.tar.gz", folder / "single.png"
    archive.write_bytes(PACKERS["tar.gz"](PICTURES))
    single.write_bytes(encode(picture("blue")))
    return [archive, single, write_folder(folder / "folder", [*PICTURES[:300], BAD])]


@pytest.fixture(scope="module")
def alone(inputs: list[Path], models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str]:
    """Output and summary of one machine."""
    output = tmp_path_factory.mktemp("alone") / "out.ndjson"
    done = score(*inputs, "--summary", "--output", output, models_dir=models_dir)
    return output.read_bytes(), done.stdout


def test_what_one_machine_began_the_cluster_ends_with_the_same_output_and_summary(
    cluster: LocalCluster,
    inputs: list[Path],
    alone: tuple[bytes, str],
    models_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "out.ndjson"
    stop_after_one_chunk(monkeypatch)
    clear_environment(monkeypatch)
    model = ["--models-dir", models_dir, "--model", "colours", "--device", "cpu"]
    assert main(["score", *map(str, [*inputs, "--output", output, *model])]) == INTERRUPTED
    assert 0 < len(partial(output).read_bytes()) < len(alone[0])
    words: list[str | Path] = ["--summary", "--output", output, "--engine", "ray"]
    together = score(*inputs, *words, models_dir=models_dir, RAY_ADDRESS=cluster.address)
    assert (output.read_bytes(), together.stdout) == alone, together.stderr
    rows = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert [row["index"] for row in rows] == list(range(COUNT + 302))
    assert [row["id"] for row in rows if "error" in row] == [f"{inputs[2]}/{BAD[0]}"]
    assert not list(tmp_path.glob("*.partial*"))


def done(*names: str) -> Done:
    return Done(Scored(b"", [], 0.0, 0.0), [None], list(names))


def test_whoever_waits_for_the_cluster_hears_now_and_then_that_nothing_came() -> None:
    """And so may see that they are to stop: Ray's own iterator would not let them."""
    may_come = threading.Event()

    def outcomes() -> Iterator[Done]:
        yield done("first")
        assert may_come.wait(30)
        yield done("second")

    awaited = cluster_score._awaited(outcomes())
    assert next(each for each in awaited if each).ids == ["first"]
    assert next(awaited) is None
    may_come.set()
    assert [each.ids for each in awaited if each] == [["second"]]


def test_nobody_fetches_for_those_who_stopped_waiting() -> None:
    fetched: list[int] = []

    def outcomes() -> Iterator[Done]:
        for number in range(1000):
            fetched.append(number)
            yield done(str(number))

    awaited = cluster_score._awaited(outcomes())
    next(awaited)
    awaited.close()
    assert "awaited" not in {thread.name for thread in threading.enumerate()}
    assert len(fetched) <= 1 + 2 * cluster_score.AHEAD


def test_what_goes_wrong_in_the_cluster_is_raised_where_it_is_awaited() -> None:
    def outcomes() -> Iterator[Done]:
        yield done("first")
        raise RayError("lost")

    awaited = cluster_score._awaited(outcomes())
    assert next(each for each in awaited if each)
    with pytest.raises(RayError, match="lost"):
        list(awaited)


def test_where_no_core_is_free_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cluster_score, "TELL_S", 1e-9)
    may_come = threading.Event()

    def outcomes() -> Iterator[Done]:
        assert may_come.wait(30)
        yield done("first")

    awaited = cluster_score._awaited(outcomes())
    assert [next(awaited) for _ in range(3)] == [None] * 3
    may_come.set()
    assert len([each for each in awaited if each]) == 1
    assert [record.message for record in caplog.records] == [
        "nothing is scored yet; `ray status` tells whether the cluster has free cores"
    ]


def partial(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


def stop_after_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Run._take

    def take_and_stop(run: Run, done: Done) -> None:
        take(run, done)
        run.stop()

    monkeypatch.setattr(Run, "_take", take_and_stop)
    monkeypatch.setattr(signal, "signal", lambda *_: None)


def test_a_table_that_breaks_off_is_one_sentence_and_what_was_read_is_kept(
    cluster: LocalCluster, models_dir: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(PACKERS["tar.gz"](PICTURES)[:-2000])
    output = tmp_path / "out.ndjson"
    words: list[str | Path] = ["--output", output, "--engine", "ray", "--address", cluster.address]
    done = score(broken, *words, models_dir=models_dir)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("convoy: ")
    assert "Traceback" not in done.stderr
    assert partial(output).read_bytes().count(b"\n") >= 256


def test_without_a_cluster_it_says_how_to_name_one(models_dir: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    single = tmp_path / "single.png"
    single.write_bytes(encode(picture("blue")))
    words: list[str | Path] = ["--output", tmp_path / "out.csv", "--engine", "ray", "--address", f"127.0.0.1:{port}"]
    done = score(single, *words, models_dir=models_dir)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--address or RAY_ADDRESS" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--engine", "ray"], "pip install '.[cpu,cluster]'"),
        (["--address", "127.0.0.1:6379"], "--engine ray"),
        (["--engine", "ray", "--server", "http://127.0.0.1:8000"], "--engine is the server's own business"),
    ],
)
def test_what_keeps_it_from_running_is_one_sentence(
    words: list[str],
    sentence: str,
    models_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clear_environment(monkeypatch)
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, cluster_score.__name__)
    model = [] if "--server" in words else ["--models-dir", str(models_dir), "--model", "colours"]
    assert main(["score", str(tmp_path), "--output", str(tmp_path / "out.csv"), *model, *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("convoy: ")
    assert sentence in error
    assert error.count("\n") == 1
