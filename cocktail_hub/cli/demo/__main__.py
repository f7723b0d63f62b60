"""The process that `cocktail demo` starts: a Hub, an empty home folder for its client, and the steps of the demo."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from cocktail_hub.cli.demo.models import BASE
from cocktail_hub.errors import CocktailError
from cocktail_hub.testing import LoopbackHub

_TOKEN = "hf_demo"  # noqa: S105 - of a user of the Hub on this machine
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_OFFLINE": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "OMP_NUM_THREADS": "1",  # faster for short texts, and sums are the same on every machine
}


def main(output: Path) -> int:
    """Run the demo, and return its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that temporary folders are removed, too
    try:
        with (
            tempfile.TemporaryDirectory(prefix="cocktail-demo-", ignore_cleanup_errors=True) as name,
            LoopbackHub(Path(name, "server")) as hub,
        ):
            hub.add_user(BASE.repo_id.partition("/")[0], token=_TOKEN)
            home = Path(name, "home")
            caches = {"COCKTAIL_HUB_CACHE": str(home / "cocktail"), "TORCHINDUCTOR_CACHE_DIR": str(home / "torch")}
            os.environ.update(hub.environment(home, _TOKEN) | caches | _QUIET)
            sys.stdout.write(
                "Two real models, a recipe that mixes them, and what the mix can do. Takes a minute or two.\n"
            )
            from cocktail_hub.cli.demo.story import tell  # imports huggingface_hub

            tell(hub, output, lambda line: sys.stdout.write(line + "\n"))
    except CocktailError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
