"""`convoy score --server`: the same output, the work done by a server."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tqdm import tqdm

from service.__main__ import main
from service.app import create_app
from service.decoding import decode
from service.errors import InvalidSource, StartupError
from service.jobs import command, exchange
from service.jobs import remote as remote_module
from service.jobs import runner as runner_module
from service.jobs.exchange import Answer, Headers, Remote
from service.jobs.inputs import Input, refused
from service.jobs.ledger import Ledger
from service.jobs.remote import RemoteRun, bitmap
from service.server import Server
from service.settings import Settings
from tests.conftest import COLOURS, clear_environment, encode, picture
from tests.service.jobs.packing import as_tar, write_folder

PICTURES = [(f"{COLOURS[i % 3]}/{i:03}.png", encode(picture(COLOURS[i % 3]))) for i in range(300)]
IDS = sorted(name for name, _ in PICTURES)


@pytest.fixture
def url(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serving(settings, monkeypatch) as url:
        yield url


@contextmanager
def serving(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server in a thread."""
    monkeypatch.setattr(remote_module, "POLL_S", 0.02)
    monkeypatch.setattr(Server, "capture_signals", lambda _: closing(socket.socket()))
    app, started = create_app(settings), threading.Event()
    server = Server(app, app.state.served, settings, announce=started.set)
    monkeypatch.setattr("asyncio.SelectorEventLoop.add_signal_handler", lambda *_: None)
    monkeypatch.setattr("uvloop.Loop.add_signal_handler", lambda *_: None, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            assert started.wait(30)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
        assert not thread.is_alive(), "the server does not end"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    clear_environment(monkeypatch)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return write_folder(tmp_path / "in", PICTURES)


def inputs() -> Iterator[Input]:
    return (Input(name, lambda content=content: content) for name, content in PICTURES)  # type: ignore[misc]


def test_the_output_is_what_it_would_be_without_a_server(
    url: str, folder: Path, models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here.ndjson", tmp_path / "there.ndjson"
    assert main(["score", str(folder), "--output", str(there), "--server", url, "--summary"]) == 0
    assert "accuracy 100.00% (300 of 300 with a known label)" in capsys.readouterr().out
    model = ["--models-dir", str(models_dir), "--model", "colours", "--device", "cpu", "--workers", "1"]
    assert main(["score", str(folder), "--output", str(here), *model]) == 0
    assert there.read_bytes() == here.read_bytes()
    assert [json.loads(line)["id"] for line in there.read_bytes().splitlines()] == IDS
    assert json.loads(Remote(url).ask("/v1/batches").body)["batches"] == []


def test_a_format_that_can_not_be_written_here_is_said_before_anything_is_sent(
    url: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["score", str(folder), "--output", str(tmp_path / "out.parquet"), "--server", url]) == 1
    assert "install convoy's extra `parquet`" in capsys.readouterr().err
    assert json.loads(Remote(url).ask("/v1/batches").body)["batches"] == []
    assert list(tmp_path.glob("out*")) == []


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_so_it_is_with_prediction_sets(
    ending: str, url: str, folder: Path, models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / f"here.{ending}", tmp_path / f"there.{ending}"
    asked = ["--version", "1", "--coverage", "0.99", "--summary"]
    assert main(["score", str(folder), "--output", str(there), "--server", url, *asked]) == 0
    summary = capsys.readouterr().out
    assert "prediction sets for 99%: 3.000 classes on average, the known label in 100.00%" in summary
    model = ["--models-dir", str(models_dir), "--model", "colours", "--device", "cpu", "--workers", "1"]
    assert main(["score", str(folder), "--output", str(here), *model, *asked]) == 0
    assert there.read_bytes() == here.read_bytes()
    assert capsys.readouterr().out == summary


@pytest.mark.parametrize(("good", "status"), [(2, 0), (0, 1)])
def test_how_many_failed_is_told_and_a_batch_of_nothing_else_is_an_error(
    good: int, status: int, url: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(folder.with_name("some"), [*PICTURES[:good], ("bad.png", b"x")])
    output = tmp_path / "out.csv"
    assert main(["score", str(folder.with_name("some")), "--output", str(output), "--server", url]) == status
    error = capsys.readouterr().err
    assert f"images/s; {good} scored, 1 failed, see `error` in the output\n" in error
    assert ("convoy: Nothing could be scored: " in error) == (status == 1)
    assert len(output.read_text().splitlines()) == 1 + good + 1


def test_nothing_to_score_is_an_error_on_a_server_too(
    url: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.with_name("empty").mkdir()
    words = ["score", str(folder.with_name("empty")), "--output", str(tmp_path / "out.csv"), "--server", url]
    assert main(words) == 1
    assert "holds no image" in capsys.readouterr().err


def test_a_label_counts_only_where_the_folder_still_has_the_image(
    url: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    score = RemoteRun.score

    def while_one_goes(run: RemoteRun, sent: Iterator[Input]) -> tuple[str, ...]:
        labels = score(run, sent)
        (folder / IDS[100]).unlink()
        return labels

    monkeypatch.setattr(RemoteRun, "score", while_one_goes)
    assert main(["score", str(folder), "--output", str(tmp_path / "out.csv"), "--server", url, "--summary"]) == 0
    summary = capsys.readouterr().out
    assert "accuracy 100.00% (100 of 100 with a known label)" in summary
    assert summary.count("    100   33.3%") == len(COLOURS)


def test_rows_are_asked_for_only_when_there_are_new_ones(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, statuses = Remote.ask, list[int]()

    def noted(remote: Remote, path: str, headers: Headers | None = None) -> Answer:
        answer = ask(remote, path, headers)
        statuses.append(answer.status)
        return answer

    monkeypatch.setattr(Remote, "ask", noted)
    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        RemoteRun(Remote(url), ledger, {}).score(inputs())
    assert set(statuses) == {200, 206}


def test_who_waits_for_inputs_to_be_sent_sees_how_many_were(
    url: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "progress", partial(tqdm, unit=" images", leave=True, disable=False))
    assert main(["score", str(folder), "--output", str(tmp_path / "there.ndjson"), "--server", url]) == 0
    assert "sent: 300 images" in capsys.readouterr().err


def test_no_bar_stands_where_an_interruption_is_told(
    url: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(run: RemoteRun, sent: Iterator[Input]) -> tuple[str, ...]:
        next(sent)
        run.stop()
        return ()

    monkeypatch.setattr(command, "progress", partial(tqdm, leave=False, disable=False))
    monkeypatch.setattr(RemoteRun, "score", stopped)
    assert main(["score", str(folder), "--output", str(tmp_path / "out.csv"), "--server", url]) == 130
    assert capsys.readouterr().err.endswith("\rInterrupted after 0 images; the same command goes on from there.\n")


def test_a_server_that_asks_for_a_key_gets_it(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    keys, output = tmp_path / "keys.txt", tmp_path / "out.csv"
    keys.write_text("0123456789abcdef\n")
    with serving(settings.model_copy(update={"api_keys_file": keys}), monkeypatch) as url:
        command = ["score", str(folder), "--output", str(output), "--server", url]
        assert main(command) == 1
        told = capsys.readouterr().err
        assert "The server answers 401: This service asks for a key" in told
        assert told.endswith("--api-key-file FILE sends one.\n")
        assert main([*command, "--api-key-file", str(keys)]) == 0
    assert len(output.read_text().splitlines()) == 1 + len(PICTURES)


def test_a_key_without_a_server_is_a_mistake(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["score", str(folder), "--output", str(tmp_path / "out.csv"), "--api-key-file", "keys.txt"]
    assert main(command) == 1
    assert "--api-key-file is for a server" in capsys.readouterr().err


def test_a_run_that_was_cut_off_fetches_the_rest(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "FETCH_BYTES", 5000)
    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        first = RemoteRun(Remote(url), ledger, {})
        fetch = Ledger.commit

        def commit_and_stop(self: Ledger) -> None:
            fetch(self)
            if self.rows:
                first.stop()

        with monkeypatch.context() as context:
            context.setattr(Ledger, "commit", commit_and_stop)
            first.score(inputs())
        assert 0 < ledger.rows < len(PICTURES)
    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        second = RemoteRun(Remote(url), ledger, {})
        assert second.score(iter([])) == COLOURS
        assert [json.loads(line)["id"] for line in ledger.lines()] == [name for name, _ in PICTURES]


def test_a_run_that_goes_on_counts_what_it_has_fetched_itself(
    url: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote_module, "FETCH_BYTES", 5000)
    scoring = ["score", str(folder), "--output", str(tmp_path / "out.csv"), "--server", url]
    fetch = RemoteRun._fetch

    def fetch_and_stop(self: RemoteRun, path: str) -> None:
        self.ledger.append = partial(stopping, self, self.ledger.append)  # type: ignore[method-assign]
        fetch(self, path)

    def stopping(run: RemoteRun, append: Callable[..., None], *rows: object) -> None:
        append(*rows)
        run.stop()

    with monkeypatch.context() as context:
        context.setattr(RemoteRun, "_fetch", fetch_and_stop)
        assert main(scoring) == 130
    before = int(capsys.readouterr().err.split("Interrupted after ")[1].split()[0])
    assert main(scoring) == 0
    told = capsys.readouterr().err
    assert told.startswith(f"{len(PICTURES) - before} images in ")
    assert "in all 300 scored" in told


def test_what_the_server_refuses_is_one_sentence(url: str, tmp_path: Path) -> None:
    with (
        closing(Ledger(tmp_path / "out", "x")) as ledger,
        pytest.raises(StartupError, match="404: There is no such model"),
    ):
        RemoteRun(Remote(url), ledger, {"model": "nothing"}).score(inputs())


@pytest.mark.parametrize(
    ("name", "told"),
    [("in", "404: There is no such model"), ("cut.tar", "damaged or cut off"), ("empty.txt", "holds no image")],
)
def test_a_run_that_the_server_has_nothing_of_leaves_no_file(
    name: str, told: str, url: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.tar").write_bytes(as_tar(PICTURES)[:-50_000])
    (tmp_path / "empty.txt").touch()
    (tmp_path / "out").mkdir()
    words = [
        "--output",
        str(tmp_path / "out" / "out.csv"),
        "--server",
        url,
        *(["--model", "no"] if name == "in" else []),
    ]
    assert main(["score", str(folder.with_name(name)), *words]) == 1
    assert told in capsys.readouterr().err
    assert not [*(tmp_path / "out").iterdir()]


def test_a_run_that_never_reaches_the_server_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "PATIENCE_S", 0.0)
    with closing(Ledger(tmp_path / "out", "x")) as ledger, pytest.raises(StartupError, match="can't be reached"):
        RemoteRun(Remote("http://127.0.0.1:1"), ledger, {}).score(inputs())
    assert not [*tmp_path.iterdir()]


def test_a_refusal_does_not_make_a_run_forget_what_an_earlier_one_may_have_sent(url: str, tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        ledger.keep({"key": "k"})
        with pytest.raises(StartupError, match="404"):
            RemoteRun(Remote(url), ledger, {"model": "nothing"}).score(inputs())
        assert ledger.kept == {"key": "k"}


def test_a_server_that_is_about_to_be_back_is_sent_the_batch_then(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, away = Remote.once, [StartupError("away")] * 2

    def back(remote: Remote, *given: Any) -> Answer:  # noqa: ANN401
        if away:
            raise away.pop()
        return once(remote, *given)

    monkeypatch.setattr(Remote, "once", back)
    monkeypatch.setattr(exchange, "PAUSE_S", 0.01)
    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        assert RemoteRun(Remote(url), ledger, {}).score(inputs()) == COLOURS


def ids(ledger: Ledger) -> list[str]:
    return [json.loads(line)["id"] for line in ledger.lines()]


def test_two_who_send_the_same_have_a_batch_each(url: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        with closing(Ledger(tmp_path / name, "x")) as ledger:
            RemoteRun(Remote(url), ledger, {}).score(inputs())
    assert len(Remote(url).ask("/v1/batches").json()["batches"]) == 2


def test_a_run_that_ended_before_the_server_answered_sends_no_second_batch(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = Remote.once

    def cut(remote: Remote, method: str, *given: Any) -> Answer:  # noqa: ANN401
        answer = once(remote, method, *given)
        if method == "POST":
            raise StartupError("cut off")
        return answer

    with monkeypatch.context() as context, closing(Ledger(tmp_path / "out", "x")) as ledger:
        context.setattr(Remote, "once", cut)
        with pytest.raises(StartupError, match="cut off"):
            RemoteRun(Remote(url), ledger, {}).score(inputs())
    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        RemoteRun(Remote(url), ledger, {}).score(inputs())
        assert ids(ledger) == [name for name, _ in PICTURES]
    assert len(Remote(url).ask("/v1/batches").json()["batches"]) == 1


def test_a_batch_that_is_gone_is_said_and_the_next_run_starts_anew(url: str, tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        ledger.append(b"{}\n", 1, {"key": "k", "batch": "/v1/batches/batch-0"})
        with pytest.raises(StartupError, match=r"does not have the batch any more\. The same command starts anew"):
            RemoteRun(Remote(url), ledger, {}).score(inputs())
        RemoteRun(Remote(url), ledger, {}).score(inputs())
        assert ids(ledger) == [name for name, _ in PICTURES]


def test_a_batch_that_failed_is_said_and_the_next_run_starts_anew(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def impossible(_order: object) -> int:
        raise InvalidSource("Too much.")

    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        with monkeypatch.context() as context:
            context.setattr(runner_module, "in_a_process", impossible)
            with pytest.raises(StartupError, match=r"The batch failed: Too much\. The same command starts anew"):
                RemoteRun(Remote(url), ledger, {}).score(inputs())
        RemoteRun(Remote(url), ledger, {}).score(inputs())
        assert ids(ledger) == [name for name, _ in PICTURES]


def test_the_labels_are_known_though_the_version_is_unloaded_meanwhile(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, fetch = Remote.ask, RemoteRun._fetch

    def unloaded(remote: Remote, path: str, headers: Headers | None = None) -> Answer:
        return Answer(404, b"{}") if path.startswith("/v1/models") else ask(remote, path, headers)

    def fetch_and_unload(run: RemoteRun, path: str) -> None:
        fetch(run, path)
        monkeypatch.setattr(Remote, "ask", unloaded)

    monkeypatch.setattr(RemoteRun, "_fetch", fetch_and_unload)
    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        assert RemoteRun(Remote(url), ledger, {}).score(inputs()) == COLOURS
    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        assert RemoteRun(Remote(url), ledger, {}).score(inputs()) == COLOURS


@pytest.mark.parametrize(
    ("name", "options", "finishes"),
    [("out.csv", ["--summary"], True), ("out.ndjson", ["--top-k", "1"], True), ("out.csv", ["--top-k", "1"], False)],
)
def test_without_them_a_run_finishes_where_the_rows_have_them_or_nobody_needs_them(
    name: str,
    options: list[str],
    finishes: bool,
    settings: Settings,
    folder: Path,
    models_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def lost(run: RemoteRun, _model: object) -> tuple[str, ...]:
        while run._ask(run.ledger.kept["batch"]).json("status")["status"] != "succeeded":
            time.sleep(remote_module.POLL_S)
        raise StartupError("The answer is lost.")

    models, keys = Path(shutil.copytree(models_dir, tmp_path / "models")), tmp_path / "keys.txt"
    keys.write_text("0123456789abcdef\n")
    changed = settings.model_copy(update={"models_dir": models, "admin_keys_file": keys})
    with serving(changed, monkeypatch) as url:
        scoring = ["score", str(folder), "--version", "1", "--server", url, *options, "--output"]
        before, after = tmp_path / f"before-{name}", tmp_path / name
        assert main([*scoring, str(before)]) == 0
        summary = capsys.readouterr().out
        with monkeypatch.context() as context:
            context.setattr(RemoteRun, "_labels", lost)
            assert main([*scoring, str(after)]) == 1
        assert Remote(url, "0123456789abcdef").once("POST", "/v1/models/colours/versions/1/unload").status == 200
        capsys.readouterr()
        assert main([*scoring, str(after)]) == (0 if finishes else 1)
    told = capsys.readouterr()
    if finishes:
        assert (after.read_bytes(), told.out) == (before.read_bytes(), summary)
    else:
        assert "convoy: The server does not know the classes any more" in told.err


def test_labels_that_an_earlier_convoy_did_not_keep_are_asked_for(url: str, tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        RemoteRun(Remote(url), ledger, {}).score(inputs())
        ledger.keep({name: ledger.kept[name] for name in ("key", "batch")})
        assert RemoteRun(Remote(url), ledger, {}).score(inputs()) == COLOURS


def test_who_is_told_to_stop_sends_no_more_and_goes_on_later(url: str, tmp_path: Path) -> None:
    sent = 0

    def counted(run: RemoteRun) -> Iterator[Input]:
        nonlocal sent
        for sent, each in enumerate(inputs(), 1):
            if sent == 3:
                run.stop()
            yield each

    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        run = RemoteRun(Remote(url), ledger, {})
        assert run.score(counted(run)) == ()
        assert sent == 3
        assert RemoteRun(Remote(url), ledger, {}).score(inputs()) == COLOURS
        assert ids(ledger) == [name for name, _ in PICTURES]


def test_inputs_that_changed_after_they_were_sent_are_said_and_the_next_run_starts_anew(
    url: str, tmp_path: Path
) -> None:
    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        RemoteRun(Remote(url), ledger, {}).score(inputs())
        ledger.keep({"key": ledger.kept["key"]})
        changed = [Input("other", lambda: PICTURES[0][1])]
        with pytest.raises(StartupError, match="have changed since an earlier run sent them"):
            RemoteRun(Remote(url), ledger, {}).score(iter(changed))
        RemoteRun(Remote(url), ledger, {}).score(iter(changed))
        assert ids(ledger) == ["other"]


def test_why_an_input_can_not_be_read_here_is_in_its_row(url: str, tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        RemoteRun(Remote(url), ledger, {}).score(iter([refused("a", "The link leads nowhere.")]))
        (row,) = map(json.loads, ledger.lines())
    assert (row["id"], row["error"]["detail"]) == ("a", "The link leads nowhere.")


def test_a_row_longer_than_what_is_fetched_at_once_comes_whole(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_module, "FETCH_BYTES", 10)
    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        RemoteRun(Remote(url), ledger, {}).score(itertools.islice(inputs(), 3))
        assert ids(ledger) == [name for name, _ in PICTURES[:3]]


def test_behind_a_proxy_that_passes_no_range_on_each_row_is_taken_once(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        RemoteRun(Remote(url), ledger, {}).score(inputs())
        rows, kept = [*ledger.lines()], ledger.kept
    ask = Remote.ask
    monkeypatch.setattr(Remote, "ask", lambda remote, path, _headers=None: ask(remote, path))
    with closing(Ledger(tmp_path / "other", "x")) as ledger:
        ledger.append(b"".join(rows[:10]), 10, kept)
        assert RemoteRun(Remote(url), ledger, {}).score(iter([])) == COLOURS
        assert [*ledger.lines()] == rows


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>\n"),
        (200, b""),
        (206, b"[]\n"),
        (206, b'{"index":1}\n'),
        (206, b'{"index":0}\n{"index":0}\n'),
    ],
)
def test_rows_that_are_not_the_next_ones_are_not_taken(
    status: int, body: bytes, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Remote.ask

    def other(remote: Remote, path: str, headers: Headers | None = None) -> Answer:
        return Answer(status, body) if "/results" in path else ask(remote, path, headers)

    monkeypatch.setattr(Remote, "ask", other)
    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        with pytest.raises(StartupError, match="not as Convoy does"):
            RemoteRun(Remote(url), ledger, {}).score(inputs())
        assert ledger.position == 0


def test_a_problem_without_a_type_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Remote, "ask", lambda *_: Answer(404, b'{"type": null, "detail": null}'))
    with closing(Ledger(tmp_path / "out", "x")) as ledger:
        ledger.keep({"key": "k", "batch": "/v1/batches/batch-0"})
        with pytest.raises(StartupError, match=r"The server answers 404: it does not say why\."):
            RemoteRun(Remote("http://x"), ledger, {}).score(iter([]))


def test_a_number_of_classes_that_makes_no_sense_is_refused(
    url: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["score", str(folder), "--output", str(tmp_path / "out.csv"), "--server", url, "--top-k", "0"]
    assert main(words) == 1
    assert "The server answers 400: query top_k" in capsys.readouterr().err


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_pixels_are_the_same_behind_a_bitmap(width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, width, 3), np.uint8)
    assert np.array_equal(decode(bitmap(image), max_pixels=100), image)
