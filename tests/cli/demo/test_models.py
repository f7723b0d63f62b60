"""The models of the demo: found in packages that are never imported."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from cocktail_hub.cli import main
from cocktail_hub.cli.demo import models
from cocktail_hub.errors import MissingExtraError

pytestmark = pytest.mark.whole


def test_without_the_extra_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=re.escape('pip install ".[demo]"')):
        models.BASE.locate()
    done = CliRunner().invoke(main, ["demo"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "have two real models for the demo" in done.stderr


def test_models_are_found_without_running_their_packages_or_the_hubs_client() -> None:
    code = (
        "import sys; from cocktail_hub.cli.demo.models import BASE, FINE_TUNE; BASE.locate(), FINE_TUNE.locate();"
        "print([m for m in (BASE.package, FINE_TUNE.package, 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert (models.FINE_TUNE.locate() / "model.safetensors").is_file()
