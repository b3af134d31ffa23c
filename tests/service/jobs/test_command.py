"""`convoy score`, as a process: what it writes, and that nothing which ends it costs or doubles a row."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import parquet

from service.__main__ import main
from service.choices import Choice
from service.jobs import command
from service.jobs.endings import INTERRUPTED
from service.jobs.remote import RemoteRun
from service.jobs.score import Done, Run
from service.jobs.scoring import Task
from service.metadata import FileRecord, ModelMetadata
from service.settings import Settings
from tests.conftest import COLOURS, clear_environment, encode, picture
from tests.service.conftest import Nobody
from tests.service.jobs.packing import PACKERS, write_folder

ROOT = Path(__file__).parents[3]
COUNT = 2500
PICTURES = [(f"{COLOURS[i % 3]}/{i:05}.png", encode(picture(COLOURS[i % 3]))) for i in range(COUNT)]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("CONVOY_")}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inputs") / "pictures.tar.gz"
    path.write_bytes(PACKERS["tar.gz"](PICTURES))
    return path


def arguments(*paths: Path, output: Path, models_dir: Path) -> list[str]:
    model = ["--models-dir", str(models_dir), "--model", "colours", "--device", "cpu", "--workers", "1"]
    return ["score", *map(str, paths), "--output", str(output), *model]


def process(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "service", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT, env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(archive: Path, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    output = tmp_path_factory.mktemp("undisturbed") / "out.ndjson"
    with process(*arguments(archive, output=output, models_dir=models_dir)) as running:
        _, error = running.communicate(timeout=120)
    assert running.returncode == 0, error
    return output.read_bytes()


def test_every_input_has_its_row(undisturbed: bytes) -> None:
    rows = [json.loads(line) for line in undisturbed.splitlines()]
    assert [(row["index"], row["id"], row["label"]) for row in rows] == [
        (i, name, name.partition("/")[0]) for i, (name, _) in enumerate(PICTURES)
    ]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_whatever_ends_it_no_worker_is_left_and_the_next_run_ends_with_the_same_bytes(
    number: signal.Signals, archive: Path, models_dir: Path, undisturbed: bytes, tmp_path: Path
) -> None:
    output, chance, interrupted = tmp_path / "out.ndjson", random.Random(7), 0
    words = arguments(archive, output=output, models_dir=models_dir)
    while not output.exists():
        with process(*words) as running:
            wait_until_it_has_begun(running, tmp_path, (0, chance.uniform(0, 0.3), 60)[min(interrupted, 2)])
            running.send_signal(number)
            running.communicate(timeout=120)  # ends when the last one that holds its stdout has ended
            interrupted += running.returncode != 0
    assert interrupted
    assert output.read_bytes() == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["out.ndjson"]


def wait_until_it_has_begun(running: subprocess.Popen[str], folder: Path, then_s: float) -> None:
    """Workers take a second to start, in which there is nothing to disturb."""
    partial = folder / "out.ndjson.partial"
    before = size(partial)
    for wait_s in itertools.chain(itertools.repeat(0.01, 6000), [0.0]):
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(wait_s)
        if running.returncode is not None or size(partial) > before:
            break
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.wait(then_s)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`main` neither hears of whoever runs the tests nor takes the signals that end them."""
    clear_environment(monkeypatch)
    monkeypatch.setattr(signal, "signal", lambda *_: None)


@pytest.mark.usefixtures("in_this_process")
def test_folders_are_scored_and_summed_up(models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "pictures", [*PICTURES[:9], ("red/bad.png", b"x")])
    output = tmp_path / "out.parquet"
    assert main([*arguments(folder, output=output, models_dir=models_dir), "--summary", "--top-k", "1"]) == 0
    table = parquet.read_table(output).to_pylist()
    assert [row["index"] for row in table] == list(range(10))
    out, error = capsys.readouterr()
    assert "accuracy 100.00% (9 of 9 with a known label)" in out
    assert "failed        1" in out
    assert "10 images in" in error
    assert "images/s; 9 scored, 1 failed, see `error` in the output; of the workers' time" in error


def interrupt(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command until its first rows are there."""
    take = Run._take

    def take_and_stop(run: Run, done: Done) -> None:
        take(run, done)
        run.stop()

    with monkeypatch.context() as context:
        context.setattr(Run, "_take", take_and_stop)
        assert main(words) == INTERRUPTED


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("changed", [["--top-k", "1"], ["--precision", "fp32"], []], ids=" ".join)
def test_rows_that_would_be_others_now_are_not_gone_on_with(
    changed: list[str],
    models_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = shutil.copytree(models_dir, tmp_path / "models")
    folder = write_folder(tmp_path / "pictures", PICTURES[:300])
    words = arguments(folder, output=tmp_path / "out.csv", models_dir=models)
    interrupt(words, monkeypatch)
    if not changed:  # the active version's file is another, though of the same name
        version = max((models / "colours").iterdir())
        model = version / "model.onnx"
        model.write_bytes(model.read_bytes() + bytes([0x12, 0]))  # a field that says as much as none: no producer
        about = json.loads((version / "metadata.json").read_text())
        about["files"]["fp32"] = FileRecord.of(model).model_dump()
        (version / "metadata.json").write_text(json.dumps(about))
    assert main([*words, *changed]) == 1
    assert "holds rows of other inputs, another model or other options; delete it" in capsys.readouterr().err


def test_without_coverage_a_run_is_known_by_what_earlier_versions_knew_it_by(
    models_dir: Path, settings: Settings
) -> None:
    folder = models_dir / "colours" / "1"
    facts = [command._facts(ModelMetadata.read(folder), Task(folder, settings, 3, asked)) for asked in (None, 0.9)]
    assert (facts[0][-1], facts[1][-2:]) == (3, [3, 0.9])


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(("options", "status"), [([], 1), (["--precision", "fp32"], 0)])
def test_where_another_machine_would_run_another_file_it_does_not_go_on(
    options: list[str],
    status: int,
    models_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_folder(tmp_path / "pictures", PICTURES[:300])
    words = [*arguments(folder, output=tmp_path / "out.csv", models_dir=models_dir), *options]
    monkeypatch.setattr(command, "has_int8_dot_product", lambda: True)
    interrupt(words, monkeypatch)
    monkeypatch.setattr(command, "has_int8_dot_product", lambda: False)
    assert main(words) == status
    assert ("another model or other options; delete it" in capsys.readouterr().err) == bool(status)


@pytest.mark.usefixtures("in_this_process")
def test_a_run_that_goes_on_tells_what_became_of_all(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "pictures", [("0.png", b"x"), *PICTURES[:299]])
    words = arguments(folder, output=tmp_path / "out.csv", models_dir=models_dir)
    interrupt(words, monkeypatch)
    assert main(words) == 0
    error = capsys.readouterr().err
    assert "44 images in" in error
    assert "images/s; in all 299 scored, 1 failed, see `error` in the output; " in error


@pytest.mark.usefixtures("in_this_process")
def test_where_nothing_could_be_scored_the_output_says_why_and_the_status_is_1(
    models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(
        write_folder(tmp_path / "in", [("a.png", b"x")]), output=tmp_path / "out.csv", models_dir=models_dir
    )
    assert main(words) == 1
    told, why = capsys.readouterr().err.splitlines()
    assert "images/s; 0 scored, 1 failed" in told
    assert why.startswith("convoy: Nothing could be scored: each row")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 1


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("earlier", [["out.csv"], []])
def test_where_there_is_nothing_to_score_an_earlier_output_stays_as_it_is(
    earlier: list[str], models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name in earlier:
        (tmp_path / name).write_text("what an earlier run found")
    assert main(arguments(tmp_path / "in", output=tmp_path / "out.csv", models_dir=models_dir)) == 1
    assert capsys.readouterr().err.startswith("convoy: There was nothing to score: no image is at")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", *earlier]
    assert all((tmp_path / name).read_text() == "what an earlier run found" for name in earlier)


@pytest.mark.usefixtures("in_this_process")
def test_a_summary_that_nobody_reads_costs_no_row(
    models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = arguments(write_folder(tmp_path / "in", PICTURES[:2]), output=tmp_path / "out.csv", models_dir=models_dir)
    monkeypatch.setattr(sys, "stdout", Nobody())
    assert main([*words, "--summary"]) == 1
    assert capsys.readouterr().err.endswith("can't be written to stdout: Broken pipe.\n")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 2


THERE = {"--server": "http://127.0.0.1:1", "--model": "colours", "--version": "1", "--top-k": "2"}


@pytest.fixture
def rows_before(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Runs that have a server do the work fetch one row and stop; how many each found that were there."""
    found: list[int] = []

    def fetch_one(run: RemoteRun, _inputs: object) -> tuple[str, ...]:
        found.append(run.ledger.rows)
        run.ledger.append(b"{}\n", 1, {"batch": "/v1/batches/batch-0"})
        run.ledger.commit()
        run.stop()
        return ()

    monkeypatch.setattr(RemoteRun, "score", fetch_one)
    return found


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    "changed",
    [
        {"--server": "http://127.0.0.1:2"},
        {"--model": "other"},
        {"--version": "2"},
        {"--top-k": "1"},
        {"--coverage": "0.9"},
        {"path": "other.zip"},
        {"pictures": "3"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_rows_of_a_server_are_gone_on_with_where_all_that_decides_them_is_the_same(
    changed: dict[str, str], rows_before: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def score(given: dict[str, str]) -> int:
        archive = tmp_path / given.pop("path")
        archive.write_bytes(PACKERS["zip"](PICTURES[: int(given.pop("pictures"))]))
        os.utime(archive, (1, 1))
        return main(["score", str(archive), "--output", str(tmp_path / "out.csv"), *itertools.chain(*given.items())])

    facts = {"path": "in.zip", "pictures": "2"} | THERE
    assert [score(dict(facts)), score(dict(facts)), score(facts | changed)] == [INTERRUPTED, INTERRUPTED, 1]
    assert rows_before == [0, 1]
    assert "holds rows of other inputs, another model or other options; delete it" in capsys.readouterr().err


@pytest.mark.usefixtures("in_this_process")
def test_the_version_is_the_one_that_a_server_would_answer_by(models_dir: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(models_dir, tmp_path / "models"))
    pictures = write_folder(tmp_path / "pictures", PICTURES[:1])

    def sure(name: str) -> float:
        output = tmp_path / name
        assert main(arguments(pictures, output=output, models_dir=root)) == 0
        return float(json.loads(output.read_text())["probability"])

    second = sure("highest.ndjson")
    Choice("1").write(root / "colours")
    assert sure("active.ndjson") > second


@pytest.mark.usefixtures("in_this_process")
def test_an_output_among_the_inputs_is_no_input(models_dir: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", PICTURES[:2])
    words = arguments(folder, output=folder / "out.csv", models_dir=models_dir)
    for _ in range(2):
        assert main(words) == 0
        assert len((folder / "out.csv").read_text().splitlines()) == 1 + 2


@pytest.mark.usefixtures("in_this_process")
def test_ids_of_several_paths_begin_with_them(models_dir: Path, tmp_path: Path) -> None:
    one, two = (write_folder(tmp_path / name, PICTURES[:2]) for name in ("one", "two"))
    assert main(arguments(one, two, output=tmp_path / "out.csv", models_dir=models_dir)) == 0
    lines = (tmp_path / "out.csv").read_text().splitlines()[1:]
    names = sorted(name for name, _ in PICTURES[:2])
    assert [line.split(",")[1] for line in lines] == [f"{path}/{name}" for path in (one, two) for name in names]


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (["--model", "nothing"], "There is no model nothing"),
        (["--version", "9"], "There is no model colours 9"),
        (["--top-k", "4"], "3 classes"),
        (["--workers", "-1"], "--workers: ask for 1 to 1,024"),
        (["--workers", "1025"], "--workers: ask for 1 to 1,024"),
        (["--output", ""], "its ending says the format"),
        (["--output", "nowhere/out.csv"], "There is no folder nowhere for --output"),
        (["--output", "out.xlsx"], "its ending says the format"),
        (["--output", "s3://bucket/out.csv"], "--output s3://bucket/out.csv: the output is a file of this machine"),
        (["--device", "tpu"], "--device"),
        (["--version", "1", "--coverage", "0.5"], "--coverage: this version has sets for 0.9, 0.95, 0.99."),
        (["--version", "2", "--coverage", "0.9"], "--coverage: this version has no thresholds for prediction sets"),
        ([""], "A path is empty"),
        (["/nowhere/at/all"], "can't be read"),
        (["/nowhere/at/all/*.png"], "matches nothing"),
    ],
)
def test_what_keeps_it_from_running_is_one_sentence(
    changed: list[str],
    sentence: str,
    models_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = arguments(write_folder(tmp_path / "in", PICTURES[:1]), output=tmp_path / "out.csv", models_dir=models_dir)
    assert main([*words[:1], *changed, *words[1:]] if changed[0][:1] in ("", "/") else [*words, *changed]) == 1
    error = capsys.readouterr().err
    assert error.startswith("convoy: ")
    assert sentence in error
    assert error.count("\n") == 1
