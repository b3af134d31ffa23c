"""The commands of `convoy`, their options and what keeps them from running."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import get_args

import pytest

from service.__main__ import main
from service.app import create_app
from service.command import COMMANDS, announce, example_request, parser
from service.errors import StartupError
from service.listening import listen
from service.settings import Settings
from service.supervisor import Supervisor
from tests.conftest import clear_environment
from tests.service.conftest import Nobody


def test_every_setting_is_a_flag() -> None:
    flags = parser().parse_args(["serve", *(f"--{name.replace('_', '-')}=x" for name in Settings.model_fields)])
    assert set(vars(flags)) - {"run"} == set(Settings.model_fields)


@pytest.mark.parametrize(
    ("command", "names"),
    [("serve", ("device", "precision", "log_format", "log_requests")), ("score", ("device", "precision"))],
)
def test_help_lists_the_values_of_a_setting_that_has_only_some(
    command: str, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = capsys.readouterr().out
    for name in names:
        values = ",".join(get_args(Settings.model_fields[name].annotation))
        assert f"--{name.replace('_', '-')} {{{values}}}" in told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["serve", "--host", "nowhere.invalid"], "convoy: Can't listen on nowhere.invalid port 8000: "),
        (["serve", "--port", "x"], "convoy: --port (or CONVOY_PORT): "),
        (
            ["serve", "--port", "0", "--models-dir", "/nowhere"],
            "convoy: The default model cifar10 can't be served from ",
        ),
        (["serve", "--models-dir", "/nowhere", "--jobs-dir", __file__], "convoy: Batches can't be kept in "),
        (["serve", "--models-dir", "/nowhere", "--jobs-dir", f"{__file__}/jobs"], "convoy: Batches can't be kept in "),
    ],
)
def test_what_keeps_it_from_starting_is_one_sentence(
    arguments: list[str], sentence: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clear_environment(monkeypatch)
    monkeypatch.setattr("service.telemetry.configure", lambda _: None)
    assert main(arguments) == 1
    error = capfd.readouterr().err
    assert error.startswith(sentence)
    assert error.count("\n") == 1


@pytest.mark.parametrize(("command", "waits"), [("serve", True), ("score", False)])
def test_a_hangup_waits_until_a_server_has_started(command: str, waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    effects: list[bool] = []

    def note(*_: object) -> None:
        effects.append(signal.SIGHUP in signal.pthread_sigmask(signal.SIG_BLOCK, []))

    def add_options(subparser: ArgumentParser) -> None:
        note()
        subparser.set_defaults(run=note)

    monkeypatch.setitem(COMMANDS, command, ("", add_options))
    main([command])
    assert effects == [waits] * 2


def test_a_taken_grpc_port_is_known_before_anything_else(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clear_environment(monkeypatch)
    monkeypatch.setattr("service.telemetry.configure", lambda _: None)
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", "0", "--grpc-port", str(port)]) == 1
    assert capfd.readouterr().err == (
        f"convoy: Can't listen on 127.0.0.1 port {port}: Address already in use. Choose others with --host and "
        "--grpc-port (or CONVOY_HOST and CONVOY_GRPC_PORT).\n"
    )


def test_without_grpc_installed_its_port_is_one_sentence(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "service.rpc.server", raising=False)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(StartupError, match=re.escape("pip install '.[cpu,grpc]'")):
        create_app(settings.model_copy(update={"grpc_port": 0}))


WITHOUT_ONNX_RUNTIME = """
import sys
sys.modules["onnxruntime"] = None
from service.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--port", "0", "--workers", "1"],
        ["serve", "--port", "0", "--workers", "2"],
        ["score", "tests", "--model", "colours", "--output", "never-written.csv"],
        ["score", "tests", "--model", "colours", "--output", "never-written.csv", "--engine", "ray"],
    ],
)
def test_without_onnx_runtime_installed_it_is_one_sentence(arguments: list[str], models_dir: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_ONNX_RUNTIME, *arguments, "--models-dir", str(models_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("convoy: ONNX Runtime is not installed here; in the checkout: pip install '.[cpu]'")
    assert done.stderr.count("\n") == 1


def test_a_worker_on_a_gpu_has_someone_to_replace_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    async def run(supervisor: Supervisor) -> int:
        started.append(supervisor._count)
        return 0

    clear_environment(monkeypatch)
    monkeypatch.setattr("service.telemetry.configure", lambda _: None)
    monkeypatch.setattr(Supervisor, "run", run)
    assert main(["serve", "--port", "0", "--device", "cuda"]) == 0
    assert started == [1]


@pytest.mark.parametrize(("variables", "lines"), [({}, 0), ({"CONVOY_PROT": "1", "CONVOY_WORKER": "2"}, 1)])
def test_variables_that_are_no_settings_are_said_in_one_line(
    variables: dict[str, str], lines: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(_supervisor: Supervisor) -> int:
        return 0

    clear_environment(monkeypatch)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("service.telemetry.configure", lambda _: None)
    monkeypatch.setattr(Supervisor, "run", run)
    assert main(["serve", "--port", "0", "--workers", "2"]) == 0
    said = [record.getMessage() for record in caplog.records if "change nothing" in record.getMessage()]
    assert len(said) == lines
    assert all(f"{name} (is " in said[0] for name in variables)


def test_where_batches_can_not_be_kept_for_now_is_said_before_the_models_are_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(_supervisor: Supervisor) -> int:
        return 0

    clear_environment(monkeypatch)
    monkeypatch.setattr("service.telemetry.configure", lambda _: None)
    monkeypatch.setattr(Supervisor, "run", run)
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK and Path(path).exists())  # root may write
    assert main(["serve", "--port", "0", "--workers", "2", "--jobs-dir", str(tmp_path / "a" / "b")]) == 0
    assert f"{tmp_path} can't be written" in caplog.text


@pytest.mark.parametrize("name", ["api_keys_file", "admin_keys_file"])
def test_keys_that_can_not_be_read_are_known_before_the_models_are_loaded(
    name: str, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(StartupError, match="The keys can't be read from"):
        create_app(settings.model_copy(update={name: tmp_path / "none", "models_dir": tmp_path / "none"}))


def test_a_server_whose_stdout_nobody_reads_logs_its_address(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", Nobody())
    with listen("127.0.0.1", 0) as listener:
        announce(listener, None)
        assert f"serving at http://127.0.0.1:{listener.getsockname()[1]}; " in caplog.text


@pytest.mark.parametrize("words", [["--help"], ["bench", "--help"]])
def test_help_that_nobody_reads_is_no_error(words: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as pipe:  # noqa: PTH123 - a number
        command = [sys.executable, "-m", "service", *words]
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, check=True, env=buffered)
    assert done.stderr == ""


def test_the_example_request_names_a_picture_that_is_there() -> None:
    file = shlex.split(example_request("http://127.0.0.1:8000"))[2].removeprefix("images=@")
    assert Path(file).is_file()
