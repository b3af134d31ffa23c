"""`convoy` as a program: what becomes of Ctrl-C from its first moment on."""

from __future__ import annotations

import subprocess
import sys
from importlib.abc import MetaPathFinder
from unittest.mock import Mock

import pytest

from service.__main__ import main
from service.command import COMMANDS
from tests.service.conftest import Nobody


def test_signals_are_taken_care_of_before_anything_slow_is_imported() -> None:
    slow = {"argparse", "asyncio", "logging", "numpy", "pydantic"}
    program = f"import sys, service.__main__; print({slow} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


class Failing(MetaPathFinder):
    """Lets the import of what the commands are made of fail."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def find_spec(self, name: str, _path: object, _target: object = None) -> None:
        if name == "service.command":
            raise self._error


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), caused(ImportError("initialization failed"), KeyboardInterrupt())]
)
def test_ctrl_c_during_the_first_import_is_one_sentence(
    error: BaseException, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "service.command")
    monkeypatch.setattr(sys, "meta_path", [Failing(error), *sys.meta_path])
    assert main(["serve"]) == 130
    assert capfd.readouterr().err == "convoy: stopped.\n"


def test_ctrl_c_that_nobody_reads_of_is_still_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "serve", ("", Mock(side_effect=KeyboardInterrupt)))
    monkeypatch.setattr(sys, "stderr", Nobody())
    assert main(["serve"]) == 130


def test_what_is_not_installed_is_no_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "service.command")
    monkeypatch.setattr(sys, "meta_path", [Failing(ImportError("not installed")), *sys.meta_path])
    with pytest.raises(ImportError, match="not installed"):
        main(["serve"])


def test_ctrl_c_during_the_imports_is_one_sentence(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COMMANDS, "serve", ("", Mock(side_effect=KeyboardInterrupt)))
    assert main(["serve"]) == 130
    assert capfd.readouterr().err == "convoy: stopped.\n"


@pytest.mark.parametrize("command", ["serve", "score", "bench", "tune"])
def test_ctrl_c_is_one_sentence(
    command: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_nothing = Mock(side_effect=lambda subparser: subparser.set_defaults(run=Mock(side_effect=KeyboardInterrupt)))
    monkeypatch.setitem(COMMANDS, command, ("", add_nothing))
    assert main([command]) == 130
    assert capfd.readouterr().err == "convoy: stopped.\n"
