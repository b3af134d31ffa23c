"""What a model card should say about where weights come from: code, library versions, hardware."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

from training.device import Precision


def provenance(device: torch.device, precision: Precision) -> dict[str, str]:
    """The code and machine that train now."""
    return {
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a plain string: checkpoints hold no code
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU",
        "precision": precision.value,
    }


def continued(before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """What is to be said of a run that was begun or went on as `before` says, and goes on as `now` says."""
    last = {name: value.rpartition(", then ")[2] for name, value in before.items()}
    changed = {name for name, value in now.items() if name in last and last[name] != value}
    return before | {name: f"{before[name]}, then {now[name]}" for name in changed}


def recorded(path: Path) -> str:
    """How a command that others will read names `path`: not by the folders of one machine."""
    return path.name if path.is_absolute() else str(path)


def git_revision() -> str:
    """The commit of this source tree, `-dirty` when it was changed since; `unknown` outside a checkout."""
    here = Path(__file__).parent
    try:
        revision = _git(here, "rev-parse", "HEAD")
        return revision + ("-dirty" if _git(here, "status", "--porcelain", "--", ".", "../service") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
