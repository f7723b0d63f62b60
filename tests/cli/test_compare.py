from __future__ import annotations

import json

import models
import pytest
import yaml
from click.testing import CliRunner

from cocktail_hub.cli import main

pytestmark = pytest.mark.whole


def test_the_command_prints_tables_and_what_follows(tmp_path):
    pair = models.pair("bert")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"ingredients": list(map(str, pair.folders))}))
    base = ["--base", str(models.save("bert", 9, tmp_path / "base"))]
    command = ["compare", str(recipe), *base]
    done = CliRunner().invoke(main, [*command, "--plot", str(tmp_path / "map.png")])
    assert done.exit_code == 0, done.output
    assert "encoder.layer.1" in done.stdout
    assert "Their average moves the base by" in done.stdout
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    shown = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    assert len(shown["whole"]["cosines"]) == 2
    without_a_file = CliRunner().invoke(main, ["compare", *map(str, pair.folders), *base, "--json"])
    assert json.loads(without_a_file.stdout) == shown
    alone = CliRunner().invoke(main, ["compare", str(pair.folders[1]), *base, "--json"])
    assert json.loads(alone.stdout)["whole"]["lengths"] == shown["whole"]["lengths"][1:]


def test_slips_are_said_before_anything_is_read():
    done = CliRunner().invoke(main, ["compare", "no-recipe.yaml", "--base", "org/base"])
    assert "'no-recipe.yaml'" in done.output
    done = CliRunner().invoke(main, ["compare", "recipe.yaml", "--plot", "no/such/map.png"])
    assert done.exit_code == 2
    assert "There is no folder" in done.output
