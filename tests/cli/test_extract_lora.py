from __future__ import annotations

import json

import models
import pytest
from click.testing import CliRunner

from cocktail_hub.cli import main

pytestmark = pytest.mark.whole


def test_the_command_writes_an_adapter_and_says_its_error(tmp_path):
    tuned, base = map(str, models.pair("llama").folders)
    command = ["extract-lora", tuned, "--base", base, "--rank", "2"]
    done = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "out")
    assert "Relative error overall: 0." in done.stderr
    assert (tmp_path / "out" / "adapter_config.json").is_file()
    shown = json.loads(CliRunner().invoke(main, [*command, "--json", "-o", str(tmp_path / "other")]).stdout)
    assert shown["rank"] == 2
    assert shown["tensors"]["model.norm.weight"]["how"] == "whole"


@pytest.mark.parametrize(("options", "words"), [
    (["--error", "1", "-o", "x"], "1.0 is not in the range"),
    (["--rank", "0", "-o", "x"], "0 is not in the range"),
    ([], "Missing option"),
])  # fmt: skip
def test_slips_are_said_before_anything_is_read(options, words):
    done = CliRunner().invoke(main, ["extract-lora", "me/model", *options])
    assert done.exit_code == 2
    assert words in done.output
