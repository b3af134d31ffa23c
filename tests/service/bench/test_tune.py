"""A machine and a latency target → settings: the search against made-up machines, and once for real."""

from __future__ import annotations

from array import array
from collections import Counter
from pathlib import Path

import pytest

from service.__main__ import main
from service.bench import tune
from service.bench.load import Outcome
from service.bench.tune import Candidate, Measure, Result
from service.errors import StartupError
from service.settings import load
from tests.conftest import clear_environment


def machine(saturates_at: int, ms_per_connection: float, fails_at: int | None = None) -> Measure:
    """Rate grows with the connections until it saturates, latency all the time."""

    def measure(connections: int) -> Outcome:
        count = 100 * min(connections, saturates_at)
        latencies = array("d", [connections * ms_per_connection / 1000] * count)
        statuses = Counter({200: count, **({503: 1} if connections == fails_at else {})})
        return Outcome(1, latencies, statuses=statuses, seconds=1.0)

    return measure


def test_connections_are_doubled_until_the_target_is_missed() -> None:
    result = tune.best(Candidate(2, 1), machine(saturates_at=1000, ms_per_connection=1), target_ms=40)
    assert (result.connections, result.images_per_second) == (32, 3200)
    assert result.p99_ms == pytest.approx(32)


def test_of_equal_rates_the_one_with_fewer_connections_is_kept() -> None:
    assert tune.best(Candidate(1, 1), machine(saturates_at=8, ms_per_connection=0.1), target_ms=40).connections == 8


def test_failures_are_no_success() -> None:
    assert tune.best(Candidate(1, 1), machine(100, 0.1, fails_at=4), target_ms=40).connections == 2


def test_a_candidate_that_is_always_too_slow_gives_nothing() -> None:
    assert tune.best(Candidate(1, 1), machine(8, 50), target_ms=40).images_per_second == 0


def test_cores_are_shared_out_evenly() -> None:
    shares = [(candidate.workers, candidate.threads) for candidate in tune.candidates(6)]
    assert shares == [(1, 6), (2, 3), (3, 2), (6, 1)]


def test_delays_are_tried_with_the_best_shares_alone() -> None:
    tried: list[Candidate] = []

    def attempt(candidate: Candidate) -> Result:
        tried.append(candidate)
        return Result(candidate, 1, 100 * candidate.workers + 10 * (candidate.max_queue_delay_ms == 2), 1.0)

    assert tune.search(4, 50, attempt).candidate == Candidate(4, 1, 2.0)
    assert [candidate for candidate in tried if candidate.max_queue_delay_ms] == [
        Candidate(4, 1, delay) for delay in tune.DELAYS_MS[1:]
    ]


def test_a_target_that_nothing_meets_is_one_sentence() -> None:
    with pytest.raises(StartupError, match="Nothing is answered within 3 ms"):
        tune.search(2, 3, Result)


@pytest.fixture
def quick(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little to try, of a small model."""
    clear_environment(monkeypatch)
    for name, value in {"MODELS_DIR": str(models_dir), "DEFAULT_MODEL": "colours", "DEVICE": "cpu"}.items():
        monkeypatch.setenv(f"CONVOY_{name}", value)
    monkeypatch.setattr(tune, "usable_cores", lambda: 1)
    monkeypatch.setattr(tune, "DELAYS_MS", (0.0, 1.0))
    monkeypatch.setattr(tune, "MOST_CONNECTIONS", 2)


@pytest.mark.usefixtures("quick")
def test_what_is_found_is_a_settings_file_that_serve_reads(
    models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys.txt").write_text("a-key-that-it-does-not-have\n")
    monkeypatch.setenv("CONVOY_API_KEYS_FILE", str(tmp_path / "keys.txt"))
    output = tmp_path / "found" / "convoy.env"
    output.parent.mkdir()
    assert main(["tune", "--p99-ms", "60000", "--seconds", "0.3", "--output", str(output)]) == 0
    assert "images/s at" in capsys.readouterr().out
    assert [path.name for path in output.parent.iterdir()] == ["convoy.env"]
    settings = load({}, file=output)
    assert (settings.workers, settings.threads) == (1, 1)
    assert settings.max_queue_delay_ms in (0, 1)
    assert settings.models_dir == models_dir


@pytest.mark.usefixtures("quick")
def test_a_service_that_refuses_the_requests_is_not_too_slow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVOY_MAX_IMAGE_PIXELS", "1")
    assert main(["tune", "--seconds", "0.3", "--output", str(tmp_path / "convoy.env")]) == 1
    assert capsys.readouterr().err.startswith("convoy: The first requests ended with status 422, not one with 200; ")


@pytest.mark.parametrize("output", ["", ".", "no/convoy.env"])
def test_an_output_that_can_be_no_file_is_known_before_anything_is_measured(
    output: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tune, "server", None)
    assert main(["tune", "--output", output]) == 1
    assert "can't be a file: name one in a folder that is there.\n" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="can't be written"):
        tune.write(Result(Candidate(1, 1)), 50, tmp_path / "no" / "convoy.env")
