from __future__ import annotations

import json

import models
import pytest
import yaml
from click.testing import CliRunner

from cocktail_hub.cli import main
from cocktail_hub.recipe import parse_recipe

pytestmark = pytest.mark.whole

PASSAGES = [
    {"query": "where is the cat", "pos": ["the cat sat on the mat"], "neg": ["a dog ran", "paris", "yes"]},
    {"query": "who ran", "pos": ["a dog ran in the park"], "neg": ["the cat sat", "rome is it"]},
    {"query": "what is it", "pos": ["it is paris"], "neg": ["no", "the pod keeps crashing"]},
]


def test_the_command_prints_a_table_draws_and_writes_the_chosen_recipe(tmp_path):
    recipe, mine = tmp_path / "recipe.yaml", tmp_path / "mine.jsonl"
    folders = list(map(str, models.pair("bert").folders))
    recipe.write_text(yaml.safe_dump({"ingredients": folders}))
    mine.write_text("".join(json.dumps(row) + "\n" for row in PASSAGES))
    options = ["--examples", f"target={mine}", "--points", "3"]
    command = ["sweep", str(recipe), *options]
    written = [*command, "--plot", str(tmp_path / "curve.png"), "-o", str(tmp_path / "chosen.yaml")]
    done = CliRunner().invoke(main, written)
    assert done.exit_code == 0, done.output
    assert "target, nDCG@10" in done.stdout
    assert "chosen)" in done.stdout
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    chosen = parse_recipe((tmp_path / "chosen.yaml").read_text())
    assert chosen.weights
    shown = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    assert shown["chosen"] in (0, 0.5, 1)
    assert {curve["metric"] for curve in shown["curves"]} == {"nDCG@10", "MRR", "accuracy@1", "loss"}
    without_a_file = CliRunner().invoke(main, ["sweep", *folders, *options, "--json"])
    assert json.loads(without_a_file.stdout)["curves"] == shown["curves"]


@pytest.mark.parametrize(("options", "words"), [
    (["--examples", "a="], "'a=' names no file"),
    (["--examples", "a=x", "--examples", "a=y"], "Two sets of examples have the same name"),
    (["--examples", "a=x", "-o", "no/such/folder.yaml"], "There is no folder"),
])  # fmt: skip
def test_slips_are_said_before_anything_is_read(options, words):
    done = CliRunner().invoke(main, ["sweep", "recipe.yaml", *options])
    assert done.exit_code == 2
    assert words in done.output
