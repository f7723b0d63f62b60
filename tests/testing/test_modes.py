"""Both ways of moving large files: the client picks one when it is imported, so the other needs its own process.

What sits on top of the client (test_libraries.py) is left out here: importing it takes longest, and it moves files
in no way of its own. COCKTAIL_TEST_XET=1 runs everything over Xet.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cocktail_hub.testing import LoopbackHub

_CLIENT = Path(__file__).with_name("client")


@pytest.mark.whole
def test_the_real_client_finds_the_same_hub_in_the_other_mode(hub: LoopbackHub) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", str(_CLIENT)]
    result = subprocess.run(
        [*command, f"--ignore={_CLIENT / 'test_libraries.py'}"],
        env={**os.environ, "COCKTAIL_TEST_XET": "0" if hub.xet else "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
