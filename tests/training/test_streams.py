"""Standard output and error of whatever kind: commands end as they would without."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def started(action: str, redirected: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """`convoy-train compare` in a shell, where it does `action` instead."""
    script = (
        "import sys\n"
        "from training import command\n"
        "from training.errors import TrainingError\n"
        "def compare(options):\n"
        f"    {action}\n"
        "command.compare = compare\n"
        "from training.__main__ import main\n"
        "sys.exit(main(['compare']))\n"
    )
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -c "$1" {redirected}', sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )


def test_text_that_the_encoding_lacks_is_shown_all_the_same() -> None:
    done = started("print('32 × 32')", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, "32 \\xd7 32\n", "")


@pytest.mark.parametrize("redirected", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_ends_nothing(redirected: str) -> None:
    done = started("print('done', flush=True); print('done', file=sys.stderr)", redirected)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full"])
def test_an_error_that_nobody_can_read_still_has_its_status(redirected: str) -> None:
    assert started("raise TrainingError('No.')", redirected).returncode == 1


def test_a_full_disk_behind_stdout_is_one_sentence() -> None:
    done = started("print('done')", ">/dev/full")
    assert (done.returncode, done.stderr) == (1, "convoy-train: No space left on device.\n")
