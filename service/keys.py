"""A file of keys → the keys: what clients send and the service knows them by."""

from __future__ import annotations

from pathlib import Path

from service.errors import StartupError

SHORTEST = 16  # characters: less can be guessed


def read_keys(file: Path) -> list[str]:
    """The keys in `file`, at least one: one per line, besides empty lines and comments (#); raises `StartupError`."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="ascii").splitlines()]
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no ASCII text"
        raise StartupError(f"The keys can't be read from {file}: {reason}.") from exc
    keys = {number: line for number, line in enumerate(lines, start=1) if line and not line.startswith("#")}
    if not keys:
        raise StartupError(f"There is no key in {file}; write one per line. `openssl rand -hex 32` makes one.")
    for number, key in keys.items():
        if len(key) < SHORTEST or not key.isprintable() or " " in key:
            raise StartupError(
                f"Line {number} of {file} is no key: use {SHORTEST} or more characters without spaces; "
                "`openssl rand -hex 32` makes one."
            )
    return list(keys.values())
