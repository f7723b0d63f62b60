from __future__ import annotations

from dataclasses import replace

import models
import pytest

from cocktail_hub import MixOptions, Recipe
from cocktail_hub.compat.check import check_models
from cocktail_hub.resolve.resolve import resolve
from cocktail_hub.search.model_folders import copy_tokenizer, mix_folder, model_folder

OPTIONS = MixOptions()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cocktail"))
    return tmp_path / "cocktail"


@pytest.fixture
def report():
    return check_models(resolve(Recipe.from_dict(models.pair("bert").local_recipe), OPTIONS.hub), OPTIONS.hub)


def test_a_model_that_loads_as_it_is_is_used_where_it_lies(report, own_cache):
    with model_folder(1, report, OPTIONS) as folder:
        assert folder == models.pair("bert").folders[1]
    assert not any((own_cache / "staging").iterdir())


def test_a_mix_is_there_as_long_as_it_is_needed(report, own_cache):
    with mix_folder(report.recipe, report, OPTIONS) as folder:
        for name, tensor in models.expected("bert").items():
            assert models.weights_of(folder)[name].equal(tensor)
    assert not any((own_cache / "staging").iterdir())


def test_the_tokenizer_is_pinned_by_its_files(report, tmp_path):
    folder, pinned = copy_tokenizer(report, tmp_path / "one", code=False)
    assert (folder / "tokenizer.json").is_file()
    assert copy_tokenizer(report, tmp_path / "two", code=False)[1] == pinned
    assert "config.json" not in pinned.replace("tokenizer_config.json", "")


def test_a_model_whose_tokens_have_other_rows_reads_with_its_own_tokenizer(report, tmp_path):
    assert copy_tokenizer(report, tmp_path / "one", code=False, index=1)[0] == tmp_path / "one"
    moved = replace(report, tokens="not None")
    folder, _ = copy_tokenizer(moved, tmp_path / "two", code=False, index=1)
    own = models.pair("bert").folders[1] / "tokenizer.json"
    assert (folder.parent, (folder / "tokenizer.json").read_bytes()) == (tmp_path / "two", own.read_bytes())
