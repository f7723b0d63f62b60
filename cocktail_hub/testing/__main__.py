"""`python -m cocktail_hub.testing`: a Hub on loopback until Ctrl-C, to point any HF library at."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
import threading
from pathlib import Path

from cocktail_hub.testing.hub import LoopbackHub

_USER, _TOKEN = "alice", "hf_alice"


def main(arguments: list[str] | None = None) -> int:
    """Serve, and print the variables to export."""
    parser = argparse.ArgumentParser(prog="python -m cocktail_hub.testing", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="to listen on; any free one if not given")
    parser.add_argument("--root", type=Path, help="folder that keeps the repos; a temporary one if not given")
    parser.add_argument("--xet", action="store_true", help="serve large files over Xet rather than plain LFS")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        tempfile.TemporaryDirectory(prefix="loopback-home-", ignore_cleanup_errors=True) as home,
        LoopbackHub(options.root, port=options.port, xet=options.xet) as hub,
    ):
        hub.add_user(_USER, token=_TOKEN)
        variables = hub.environment(Path(home), _TOKEN)
        os.environ.update(variables)  # hf_xet, when this Hub itself needs it, leaves its traces there as well
        _print_environment(variables)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return 0
    return 0


def _print_environment(variables: dict[str, str]) -> None:
    word = "set" if sys.platform == "win32" else "export"
    lines = [f"{word} {name}={shlex.quote(value)}" for name, value in variables.items()]
    lines.append(f"# You are {_USER} there. Ctrl-C stops the Hub.")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
