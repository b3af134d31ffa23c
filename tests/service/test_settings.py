"""Environment and command line → settings."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from service.providers import PROVIDERS
from service.settings import Settings, load, unknown, unknown_variables
from tests.conftest import clear_environment


def test_the_environment_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)
    monkeypatch.setenv("CONVOY_PORT", "8123")
    assert Settings().port == 8123


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVOY_PORT", "8123")
    assert Settings(port=9).port == 9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("device", "tpu"),
        ("max_batch_size", "-1"),
        ("host", None),
        ("host", ""),
        ("workers", "1025"),
        ("threads", "1025"),
        ("max_batch_size", "4097"),
        *(
            (name, str(1 << 54))
            for name in Settings.model_fields
            if re.search("_ms$|_bytes$|_images$|capacity|pixels", name)
        ),
        ("max_queue_delay_ms", "inf"),
    ],
)
def test_nonsense_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Settings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "origins",
    ["https://shop.example/", "shop.example", "https://a.example,", "https://a, https://b", "https://A.example"],
)
def test_what_no_browser_says_is_no_origin(origins: str) -> None:
    with pytest.raises(ValueError, match="is no origin; write it as browsers do"):
        load({"cors_origins": origins})


def test_origins_have_commas_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVOY_CORS_ORIGINS", "https://shop.example,http://[::1]:3000")
    assert load({}).origins == ["https://shop.example", "http://[::1]:3000"]
    monkeypatch.setenv("CONVOY_CORS_ORIGINS", "")
    assert load({}).origins == []
    assert load({"cors_origins": "*"}).origins == ["*"]


def test_the_devices_are_auto_and_every_provider() -> None:
    assert set(get_args(Settings.model_fields["device"].annotation)) == {"auto", *PROVIDERS}


def test_more_images_than_the_queue_holds_are_refused() -> None:
    with pytest.raises(ValidationError, match="queue_capacity"):
        Settings(max_images_per_request=100, queue_capacity=99)


def test_a_file_comes_after_the_environment_and_the_environment_after_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear_environment(monkeypatch)
    file = tmp_path / "convoy.env"
    file.write_text("# found by convoy tune\nCONVOY_WORKERS=3\nCONVOY_THREADS=4\nCONVOY_PORT=5\n")
    monkeypatch.setenv("CONVOY_THREADS", "6")
    monkeypatch.setenv("CONVOY_PORT", "7")
    settings = load({"port": "8"}, file)
    assert (settings.workers, settings.threads, settings.port) == (3, 6, 8)


def test_what_is_given_must_be_settings() -> None:
    """As the arguments of an application on Ray Serve are."""
    with pytest.raises(ValueError, match=r"no setting CONVOY_default_modle \(is CONVOY_DEFAULT_MODEL meant\?\)"):
        load({"default_modle": "colours"})
    with pytest.raises(ValueError, match="no setting CONVOY_memory;"):  # the compose file's, and nobody's here
        load({"memory": "4g"})


def test_a_file_that_is_another_users_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "convoy.env").write_text("CONVOY_WORKERS=3\n")
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may be root's, who may read everything
    with pytest.raises(ValueError, match="can't be read; change who may"):
        load({}, tmp_path / "convoy.env")


def test_nonsense_in_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "convoy.env").write_text("CONVOY_WORKERS=many\n")
    with pytest.raises(ValueError, match=r"--workers \(or CONVOY_WORKERS\): "):
        load({}, tmp_path / "convoy.env")
    with pytest.raises(ValueError, match="There is no settings file"):
        load({}, tmp_path / "other.env")


@pytest.mark.parametrize(
    "content", [b"# caf\xe9\nCONVOY_PORT=1\n", "CONVOY_PORT=1\n".encode("utf-16"), b"\x7fELF\x02\xff"]
)
def test_a_file_that_is_no_text_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "convoy.env").write_bytes(content)
    with pytest.raises(ValueError, match=r"^The settings file .* is no UTF-8 text; write NAME=VALUE lines\.$"):
        load({}, tmp_path / "convoy.env")


@pytest.mark.parametrize("line", ["CONVOY_PORT 8123", "CONVOY_PORT", "CONVOY_PORT='8123", '{"port": 8123}', "="])
def test_a_line_that_is_not_understood_is_not_passed_over(line: str, tmp_path: Path) -> None:
    (tmp_path / "convoy.env").write_text(f"# one\n{line}\nCONVOY_WORKERS=3\n")
    with pytest.raises(ValueError, match=r"^Line 2 of .* is not understood; write NAME=VALUE, or take it out\.$"):
        load({}, tmp_path / "convoy.env")


def test_lines_may_be_written_as_shells_and_containers_take_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear_environment(monkeypatch)
    lines = [
        "",
        "  # one",
        "export CONVOY_PORT = 1 # two",
        "CONVOY_DEFAULT_MODEL='a b'",
        'CONVOY_HOST="::1"  # 3',
        r'W="a \"b\" \\"',
        "X=",
    ]
    (tmp_path / "convoy.env").write_text("\n".join([*lines, "Y=it's"]))
    settings = load({}, tmp_path / "convoy.env")
    assert (settings.port, settings.default_model, settings.host) == (1, "a b", "::1")


def test_a_nul_in_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "convoy.env").write_bytes(b"CONVOY_HOST=a\0b\n")
    with pytest.raises(ValueError, match=r"^--host \(or CONVOY_HOST\): There is a NUL in it; take it out\.$"):
        load({}, tmp_path / "convoy.env")


def test_a_name_in_a_file_that_is_no_setting_is_refused_with_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "convoy.env"
    file.write_text("CONVOY_PROT=1\nCONVOY_MEMORY=8g\nOTHER=2\nexport CONVOY_WORKERS=3\nCONVOY_XYZ=\n")
    with pytest.raises(ValueError, match="is no setting") as raised:
        load({}, file)
    assert str(raised.value) == (
        f"{file} sets what is no setting, CONVOY_PROT (is CONVOY_PORT meant?), CONVOY_XYZ; mend it or take it out."
    )


def test_variables_that_are_no_settings_are_known_but_for_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("CONVOY_")]:
        monkeypatch.delenv(name)
    of_kubernetes = ("PORT", "SERVICE_HOST", "SERVICE_PORT_HTTP", "PORT_8000_TCP_ADDR")
    for name in ("WORKERS", "DATA", "TEST_KILLS", "MODEL_DIR", *of_kubernetes):
        monkeypatch.setenv(f"CONVOY_{name}", "1")
    monkeypatch.setenv("convoy_threads", "1")
    assert unknown_variables() == ["CONVOY_MODEL_DIR (is CONVOY_MODELS_DIR meant?)"]


def test_what_the_rest_of_the_project_calls_so_is_known() -> None:
    root = Path(__file__).parents[2]
    files = [root / "docker-compose.yml", *(root / "training").rglob("*.py"), *(root / "tests" / "load").glob("*.py")]
    named = {name for file in files for name in re.findall(r"\bCONVOY_[A-Z_]+\b", file.read_text())}
    assert {"CONVOY_CPUS", "CONVOY_DATA", "CONVOY_TEST_SECONDS"} < named
    keys = "CONVOY_API_KEYS"  # the compose file's own; where keys are meant to be asked for, a slip must not be silent
    assert unknown(sorted(named)) == [f"{keys} (is {keys}_FILE meant?)"]


def test_workers_are_told_of_hours_without_end() -> None:
    settings = Settings(jobs_keep_hours=float("inf"))
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize("name", ["models_dir", "api_keys_file", "default_model", "host", "port"])
def test_what_is_no_text_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="This is no UTF-8 text; choose a name that is") as raised:
        load({name: os.fsdecode(b"mod\xe9ls")})
    assert str(raised.value).startswith(f"--{name.replace('_', '-')} (or CONVOY_{name.upper()}): This is ")
