"""`convoy` → its exit status: the command line, with Ctrl-C taken care of from the first import on."""

from __future__ import annotations

import sys
from contextlib import suppress


def main(arguments: list[str] | None = None) -> int:
    """Run one command; what keeps it from running is one sentence on stderr and exit status 1, Ctrl-C is 130."""
    try:
        from service.command import run  # which takes its time

        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        pass
    except ImportError as exc:  # ONNX Runtime makes one of Ctrl-C during its own import
        if not isinstance(exc.__cause__, KeyboardInterrupt):
            raise
    with suppress(OSError):  # nobody may be there
        print("convoy: stopped.", file=sys.stderr)
    return 130


if __name__ == "__main__":
    sys.exit(main())
