"""The process that `cocktail demo` starts: a Hub, a fresh home for the client, and the story."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from cocktail_hub.cli.demo.models import BASE
from cocktail_hub.errors import CocktailError
from cocktail_hub.testing import LoopbackHub

_INTERRUPTED = 130
_TOKEN = "hf_demo"  # noqa: S105 - of a user of the Hub on loopback
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_OFFLINE": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "OMP_NUM_THREADS": "1",  # for short texts threads cost more than they bring; and sums come out the same everywhere
}


def main(output: Path) -> int:
    """Run the demo; returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that being stopped cleans up, too
    try:
        with tempfile.TemporaryDirectory(prefix="cocktail-demo-", ignore_cleanup_errors=True) as name:
            _serve_and_tell(Path(name), output)
    except CocktailError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _serve_and_tell(folder: Path, output: Path) -> None:
    """Start the Hub and point the Hugging Face libraries at it, before they are imported."""
    with LoopbackHub(folder / "server") as hub:
        namespace = BASE.repo_id.split("/", maxsplit=1)[0]
        hub.add_user(namespace, token=_TOKEN)
        home = folder / "home"
        ours = {"COCKTAIL_HUB_CACHE": str(home / "cocktail"), "TORCHINDUCTOR_CACHE_DIR": str(home / "torch")}
        os.environ.update(hub.environment(home, _TOKEN) | ours | _QUIET)
        sys.stdout.write(
            "Two real models, a recipe that mixes them, and what the mix can do. It takes a minute or two.\n"
        )
        from cocktail_hub.cli.demo.story import tell

        tell(hub, output, lambda line: sys.stdout.write(line + "\n"))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
