"""`cocktail import`."""

from __future__ import annotations

from pathlib import Path

import yaml
from cli_helpers import run
from models import pair

LINEAR = (
    "merge_method: linear\nmodels:\n- {model: m/a, parameters: {weight: 1}}\n- {model: m/b, parameters: {weight: 3}}\n"
)


def test_import_prints_the_recipe_and_what_to_know(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(LINEAR)
    done = run("import", tmp_path / "c.yml")
    assert done.exit_code == 0
    recipe = yaml.safe_load(done.stdout)
    assert (recipe["method"], recipe["normalize"]) == ("linear", True)
    assert "evidence" not in recipe
    assert done.stderr == "note: line 1: the weights are divided by their sum, as mergekit does without saying so.\n"


def test_import_writes_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(LINEAR)
    done = run("import", tmp_path / "c.yml", "-o", tmp_path / "r.yaml")
    assert done.stdout == f"{tmp_path / 'r.yaml'}\n"
    assert yaml.safe_load((tmp_path / "r.yaml").read_text())["method"] == "linear"


def test_import_fails_with_all_that_cannot_be_expressed(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(LINEAR.replace("linear", "ram"))
    done = run("import", tmp_path / "c.yml")
    assert done.exit_code == 1
    assert "- line 1: there is no method `ram` here. Accepted: linear, slerp, " in done.stderr


def test_mix_takes_a_configuration_of_mergekit(tmp_path: Path) -> None:
    text = LINEAR
    for name, folder in zip(("m/a", "m/b"), pair("llama").folders, strict=True):
        text = text.replace(name, str(folder))
    (tmp_path / "c.yml").write_text(text)
    done = run("mix", tmp_path / "c.yml", "-o", tmp_path / "mix")
    assert done.exit_code == 0
    assert "note: line 1: the weights are divided by their sum, as mergekit does without saying so." in done.stderr
    assert (tmp_path / "mix" / "model.safetensors").is_file()


def test_export_writes_what_import_reads(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(LINEAR)
    run("import", tmp_path / "c.yml", "-o", tmp_path / "r.yaml")
    done = run("export", tmp_path / "r.yaml", "--to", "mergekit", "-o", tmp_path / "back.yml")
    assert done.stdout == f"{tmp_path / 'back.yml'}\n"
    assert yaml.safe_load((tmp_path / "back.yml").read_text())["parameters"] == {"normalize": True}
    assert run("export", tmp_path / "r.yaml", "--to", "mergekit").stdout == (tmp_path / "back.yml").read_text()
