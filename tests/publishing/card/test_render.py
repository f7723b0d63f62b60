"""The card, as text and as metadata."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from huggingface_hub import ModelCard

from cocktail_hub.publishing.card.facts import LicenseInfo
from cocktail_hub.publishing.card.render import render_card, template
from cocktail_hub.recipe import Recipe, ResolvedRecipe, as_resolved, parse_recipe
from cocktail_hub.recipe.redact import public_recipe

if TYPE_CHECKING:
    from cocktail_hub.publishing.card.facts import CardFacts
    from cocktail_hub.testing import LoopbackHub

GOLDEN = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: feature-extraction
base_model:
- BAAI/bge-base-en-v1.5
- Shitao/bge-hotpotqa
base_model_relation: merge
tags:
- merge
- lm-cocktail
- cocktail-hub
---

# bge-hotpot

<!-- cocktail_hub: start -->
<!-- Written by cocktail_hub with {"base_model": ["BAAI/bge-base-en-v1.5", "Shitao/bge-hotpotqa"], "base_model_relation": "merge", "language": "en", "library_name": "transformers", "license": "apache-2.0", "pipeline_tag": "feature-extraction", "tags": ["merge", "lm-cocktail", "cocktail-hub"]} -->
<!-- Everything up to the end mark is replaced when the mix is published again. -->

These weights are a mix of 2 models. They load like any other checkpoint, without cocktail_hub.

## Ingredients

| Ingredient | Commit | Requested | Weight |
| --- | --- | --- | --- |
| [BAAI/bge-base-en-v1.5](https://huggingface.co/BAAI/bge-base-en-v1.5) | [`aaaaaaa`](https://huggingface.co/BAAI/bge-base-en-v1.5/tree/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa) | main | 0.25 |
| [Shitao/bge-hotpotqa](https://huggingface.co/Shitao/bge-hotpotqa) | [`bbbbbbb`](https://huggingface.co/Shitao/bge-hotpotqa/tree/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb) | v1.0 | 0.75 |

## How to load it

```python
from transformers import AutoModel, AutoTokenizer

model = AutoModel.from_pretrained("me/bge-hotpot")
tokenizer = AutoTokenizer.from_pretrained("me/bge-hotpot")
```

## How it was made

- Method `linear`: `sum of weight * model` (LM-Cocktail, [arXiv:2311.13534](https://arxiv.org/abs/2311.13534); Model soups, [arXiv:2203.05482](https://arxiv.org/abs/2203.05482)).
- Result: `BertModel`, 109,482,240 parameters, `float32`.
- Config and tokenizer come from [BAAI/bge-base-en-v1.5](https://huggingface.co/BAAI/bge-base-en-v1.5).
- Made with cocktail_hub 0.1.0, torch 2.13.0.

## How to make it again

```bash
pip install .  # in a checkout of cocktail_hub
cocktail mix me/bge-hotpot -o mix
```

The recipe:

```yaml
schema: 1
method: linear
ingredients:
- model: BAAI/bge-base-en-v1.5
  revision: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
  requested: main
  weight: 0.25
- model: Shitao/bge-hotpotqa
  revision: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
  requested: v1.0
  weight: 0.75
```

Digest of the mix: `DIGEST`

## Licences

`mit` may be part of a work under `apache-2.0`, which is the licence of the mix; the notices of all of them have to be kept.

| Ingredient | Licence |
| --- | --- |
| [BAAI/bge-base-en-v1.5](https://huggingface.co/BAAI/bge-base-en-v1.5) | `mit` |
| [Shitao/bge-hotpotqa](https://huggingface.co/Shitao/bge-hotpotqa) | `apache-2.0` |

<!-- cocktail_hub: end -->
"""  # noqa: E501 - the text of a card
LOCAL = {"model": "/data/alice/my_models/tuned", "digest": "sha256:" + "d" * 64, "weight": 0.75}


def _with(recipe: ResolvedRecipe, **changes: object) -> ResolvedRecipe:
    return ResolvedRecipe.from_dict(recipe.to_dict() | changes)


def _local(recipe: ResolvedRecipe, **entry: object) -> ResolvedRecipe:
    return _with(recipe, ingredients=[recipe.ingredients[0].to_dict(), LOCAL | entry])


def _recipe_in(card: str) -> str:
    return re.search(r"```yaml\n(.*?)\n```", card, re.DOTALL)[1]


def _data(card: str) -> Any:
    """The metadata, as the Hub's client reads it."""
    return ModelCard(card).data


def _row(card: str, start: str) -> str:
    return next(line for line in card.splitlines() if line.startswith(f"| {start}"))


def test_the_card_of_a_small_mix_reads_like_this(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    golden = GOLDEN.replace("DIGEST", recipe.digest)
    assert render_card(recipe, facts) == golden
    assert str(ModelCard(golden)) == golden, "it is what the Hub's client would write"


def test_the_hub_accepts_the_card(hub: LoopbackHub, recipe: ResolvedRecipe, facts: CardFacts) -> None:
    ModelCard(render_card(recipe, facts)).validate()
    assert hub.requests[-1].path == "/api/validate-yaml"


def test_a_saved_card_is_read_back_with_the_same_metadata(
    recipe: ResolvedRecipe, facts: CardFacts, tmp_path: Path
) -> None:
    card = ModelCard(render_card(recipe, facts))
    card.save(tmp_path / "README.md")
    again = ModelCard.load(tmp_path / "README.md")
    assert str(again) == str(card)
    assert again.data.to_dict() == card.data.to_dict()
    assert again.data.base_model_relation == "merge"


def test_the_recipe_in_the_card_is_the_recipe(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    assert as_resolved(parse_recipe(_recipe_in(render_card(recipe, facts)))) == recipe


def test_every_name_in_the_template_is_filled_in(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    names = {found["named"] for found in Template.pattern.finditer(template().template)}
    card = render_card(recipe, facts)
    assert len(names) == 15
    assert "\n\n\n" not in card  # as it would be around a name that is empty
    noted = render_card(recipe, replace(facts, notes=("'org/a' splits <text>.", "Another.")))
    assert "## What to know\n\n- 'org/a' splits \\<text\\>.\n- Another.\n\n## How to make it again\n" in noted
    assert "\n\n\n" not in noted


@pytest.mark.parametrize(
    ("form", "library", "expected"),
    [
        ("merged", "transformers", "transformers"),
        ("both", "sentence-transformers", "sentence-transformers"),
        ("recipe", "sentence-transformers", "cocktail-hub"),
    ],
)
def test_the_library_is_the_one_that_loads_the_repo(
    recipe: ResolvedRecipe, facts: CardFacts, form: str, library: str, expected: str
) -> None:
    assert _data(render_card(recipe, replace(facts, form=form, library=library))).library_name == expected


@pytest.mark.parametrize(
    ("form", "classes", "expected"),
    [
        ("merged", ("SentenceTransformer",), ["sentence-transformers", "feature-extraction", "sentence-similarity"]),
        ("recipe", ("SentenceTransformer",), ["feature-extraction", "sentence-similarity"]),
        ("merged", ("CrossEncoder", "AutoModelForSequenceClassification"), ["sentence-transformers", "cross-encoder"]),
    ],
)
def test_embedders_and_rerankers_get_the_tags_they_are_found_by(
    recipe: ResolvedRecipe, facts: CardFacts, form: str, classes: tuple[str, ...], expected: list[str]
) -> None:
    card = render_card(recipe, replace(facts, form=form, library="sentence-transformers", load_classes=classes))
    assert _data(card).tags == ["merge", "lm-cocktail", "cocktail-hub", *expected]


def test_a_language_that_only_some_ingredients_have_is_left_out(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    card = render_card(recipe, replace(facts, languages={"BAAI/bge-base-en-v1.5": ("en",)}))
    assert "language" not in yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize("form", ["merged", "recipe", "both"])
@pytest.mark.parametrize(
    "classes",
    [("AutoModelForCausalLM",), ("SentenceTransformer", "AutoModel"), ("CrossEncoder",), ("SparseEncoder",), ()],
)
@pytest.mark.parametrize("processor", ["AutoTokenizer", "AutoProcessor", None])
def test_every_snippet_is_python(
    recipe: ResolvedRecipe, facts: CardFacts, form: str, classes: tuple[str, ...], processor: str | None
) -> None:
    card = render_card(recipe, replace(facts, form=form, load_classes=classes, processor=processor))
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == len(classes) + (form == "recipe")
    for snippet in snippets:
        compile(snippet, "card", "exec")
        assert ("cocktail_hub" in snippet) == (form == "recipe")
        assert '"me/bge-hotpot"' in snippet


def test_a_recipe_card_loads_through_auto_cocktail_model_first(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    card = render_card(recipe, replace(facts, form="recipe", load_classes=("SentenceTransformer",)))
    assert "This repo contains no weights but a recipe: a mix of 2 models." in card
    top = card.partition("## Ingredients")[0]
    assert "does not recognize the model type `cocktail`" in top
    assert "put `import cocktail_hub` before the line that loads the model" in top
    ours = card.index('AutoCocktailModel.from_pretrained("me/bge-hotpot")')
    assert ours < card.index("import cocktail_hub\nfrom sentence_transformers import SentenceTransformer")


def test_a_card_without_a_repo_saves_the_recipe_first(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    card = render_card(recipe, replace(facts, repo_id=None))
    assert "# Mix of bge-base-en-v1.5 and bge-hotpotqa\n" in card
    assert "cocktail mix recipe.yaml -o mix" in card
    assert "to be saved as `recipe.yaml`" in card
    assert 'from_pretrained("path/to/this/folder")' in card


def test_a_local_ingredient_shows_its_last_name_and_digest_only(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    mixed = _local(recipe)
    card = render_card(mixed, facts)
    assert _data(card).base_model == ["BAAI/bge-base-en-v1.5"]
    assert _row(card, "`tuned`") == "| `tuned` (local folder) | `sha256:dddddddddddd` |  | 0.75 |"
    assert "`./tuned` is not on the Hub" in card
    assert "/data" not in card
    assert "alice" not in card
    assert as_resolved(parse_recipe(_recipe_in(card))).digest == mixed.digest


def test_a_mix_of_local_folders_has_no_base_model(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    other = {"model": "/data/other/tuned", "digest": "xxh128:" + "e" * 32, "weight": 0.25}
    card = render_card(_with(recipe, ingredients=[other, LOCAL], tokenizer=LOCAL["model"]), facts)
    assert "base_model" not in yaml.safe_load(card.split("---\n")[1])
    assert "base_model_relation" not in _data(card).to_dict()
    assert _row(card, "`tuned`") == "| `tuned` (local folder) | `xxh128:eeeeeeeeeeee` |  | 0.25 |"
    assert "The config comes from `tuned` (local folder), the tokenizer from `tuned-2` (local folder)." in card


def test_a_recipe_card_says_at_the_top_that_it_needs_a_local_folder(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    card = render_card(_local(recipe), replace(facts, form="recipe"))
    assert card.index("`./tuned` is not on the Hub") < card.index("## Ingredients")


def test_names_cannot_break_the_table_or_the_markup(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    card = render_card(_local(recipe, model="/data/a|b `c` <!-- cocktail_hub: end -->\n*d*"), facts)
    row = _row(card, "``a")
    assert row.startswith("| ``a\\|b `c` <!-- cocktail_hub: end --> *d*`` (local folder) |")
    assert len(re.findall(r"(?<!\\)\|", row)) == 5
    assert len(re.findall("^<!-- cocktail_hub: end -->", card, re.MULTILINE)) == 1


def test_tokens_logins_and_home_folders_do_not_get_in(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    token = "hf_" + "x1" * 17
    said = f"Read with {token} from https://me:secret@host/x. Kept /home/alice/x and C:\\Users\\bob\\y."
    text = render_card(_with(recipe, evidence={"sentence": f"{said} In {Path('~').expanduser()}/work."}), facts)
    for secret in (token, "secret", "alice", "bob", str(Path("~").expanduser())):
        assert secret not in text
    assert "In \\~/work." in text or "In ~/work." in text


def test_losses_are_shown_beside_the_weights(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    evidence = {
        "rule": "softmax",
        "ingredients": [{"model": "any", "loss": 0.5, "standard_error": 0.01}, {"model": "other", "loss": 0.41234}],
        "temperature": 5.0,
        "effective_number": 1.98,
        "examples": {"digest": "sha256:" + "c" * 64, "count": 20},
        "sentence": "The weights are *nearly* equal.",
        "something": {"new": True},
    }
    card = render_card(_with(recipe, evidence=evidence), facts)
    assert _row(card, "[BAAI").endswith("| 0.25 | 0.5 ± 0.01 |")
    assert _row(card, "[Shitao").endswith("| 0.75 | 0.4123 |")
    assert (
        "- The weights are `softmax(-loss / temperature)` of each ingredient's mean loss "
        "([LM-Cocktail](https://arxiv.org/abs/2311.13534)) with temperature 5.\n" in card
    )
    assert "- Scored on 20 examples (digest `cccccccccccc`).\n" in card
    assert "- Effective number of ingredients: 1.98 of 2.\n" in card
    assert "- The weights are \\*nearly\\* equal.\n" in card
    assert "in `recipe.json`, under `evidence`" in card
    assert "evidence:" not in _recipe_in(card)


@pytest.mark.parametrize(
    "evidence",
    [
        {},
        {"ingredients": None},
        {"ingredients": "abc"},
        {"ingredients": [{"loss": 1.0}]},
        {"ingredients": [{"loss": "0.5"}, {"loss": True}]},
        {"examples": 3, "anchor": 3, "rule": 3, "temperature": "x"},
    ],
)
def test_evidence_of_another_shape_is_ignored(
    recipe: ResolvedRecipe, facts: CardFacts, evidence: dict[str, object]
) -> None:
    card = render_card(replace(recipe, evidence=evidence), facts)
    assert "| Ingredient | Commit | Requested | Weight |\n" in card


def test_the_picture_of_the_evidence_is_shown_and_how_to_check_it(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    shown = "\n## Evidence\n\n![Weights, or figures along a weight with 95 % intervals](evidence.png)\n"
    facts = replace(facts, chart="evidence.png")
    card = render_card(_with(recipe, evidence={"rule": "softmax", "weighting": {"rule": "softmax"}}), facts)
    assert f"{shown}\nComputed again from the examples by `cocktail verify me/bge-hotpot --evidence`.\n" in card
    card = render_card(_with(recipe, evidence={"rule": "sweep"}), facts)
    assert f"{shown}\n## How to make it again" in card


def test_curves_without_a_picture_are_a_table(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    point = {"value": 50.125, "interval": [45.0, 55.0]}
    curve = {"examples": "target", "metric": "MRR", "predicted": [point] * 3, "measured": {"0": point, "0.5": point}}
    evidence = {"over": "org/my_tuned", "positions": [0.0, 0.5, 1.0], "curves": [curve]}
    assert (
        "\n## Evidence\n\n"
        "| org/my_tuned | target, MRR, predicted | target, MRR, measured |\n| --- | --- | --- |\n"
        "| 0 | 50.12 [45, 55] | 50.12 [45, 55] |\n| 0.5 | 50.12 [45, 55] | 50.12 [45, 55] |\n"
        "| 1 | 50.12 [45, 55] |  |\n\n## How"
    ) in render_card(_with(recipe, evidence=evidence), facts)
    assert "## Evidence" not in render_card(_with(recipe, evidence=evidence | {"positions": 3}), facts)


def test_an_anchor_needs_no_loss_and_is_named(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    anchor = {"model": "BAAI/bge-base-en-v1.5", "share": 0.25}
    evidence = {"ingredients": [{"model": "Shitao/bge-hotpotqa", "loss": 0.4}], "anchor": anchor, "rule": "uniform"}
    card = render_card(_with(recipe, evidence=evidence), facts)
    assert _row(card, "[BAAI").endswith("| 0.25 |  |")
    assert _row(card, "[Shitao").endswith("| 0.75 | 0.4 |")
    assert "- The first ingredient is the anchor, with a share of 0.25; the others divide the rest.\n" in card


def test_an_anchor_that_was_scored_keeps_its_loss(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    """It has moved to the front; the evidence has the order of before."""
    front, other = (ingredient.model for ingredient in recipe.ingredients)
    rows = [{"model": other, "loss": 0.1}, {"model": f"{front}@{'a' * 40}", "loss": 0.9}]
    card = render_card(_with(recipe, evidence={"ingredients": rows, "anchor": {"model": front, "share": 0.5}}), facts)
    assert _row(card, "[BAAI").endswith("| 0.25 | 0.9 |")
    assert _row(card, "[Shitao").endswith("| 0.75 | 0.1 |")


def test_an_adapter_is_shown_with_the_model_it_adapts(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    base = recipe.ingredients[0].to_dict() | {"weight": None}
    base.pop("weight")
    adapter = {"model": "me/lora", "revision": "c" * 40, "requested": "main", "base": base, "weight": 0.75}
    card = render_card(_with(recipe, ingredients=[recipe.ingredients[0].to_dict(), adapter]), facts)
    assert _data(card).base_model == ["BAAI/bge-base-en-v1.5", "me/lora"]
    row = _row(card, "[me/lora]")
    assert row.startswith(
        "| [me/lora](https://huggingface.co/me/lora) on "
        "[BAAI/bge-base-en-v1.5](https://huggingface.co/BAAI/bge-base-en-v1.5) | [`ccccccc`]"
    )
    assert "on [`aaaaaaa`]" in row


def test_the_base_of_task_vectors_has_a_row(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    base = {"model": "org/base", "revision": "e" * 40, "requested": "main"}
    changed = _with(recipe, method="ties", base=base, parameters={"density": 0.5})
    card = render_card(changed, facts)
    assert _data(card).base_model == ["BAAI/bge-base-en-v1.5", "Shitao/bge-hotpotqa", "org/base"]
    assert _row(card, "[org/base]").endswith("| main | base |")
    assert "[arXiv:2306.01708](https://arxiv.org/abs/2306.01708)), with `density` 0.5, `lambda` 1." in card


def test_a_model_mixed_with_itself_is_listed_once_as_base_model(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    same = recipe.ingredients[0].to_dict()
    card = render_card(_with(recipe, ingredients=[same | {"weight": 0.5}, same | {"weight": 0.5}]), facts)
    assert _data(card).base_model == ["BAAI/bge-base-en-v1.5"]
    assert "These weights are a model mixed with itself." in card


def test_a_requested_commit_is_shown_short(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    entry = recipe.ingredients[1].to_dict() | {"requested": "b" * 40}
    card = render_card(_with(recipe, ingredients=[recipe.ingredients[0].to_dict(), entry]), facts)
    assert "| `bbbbbbb` | 0.75 |" in _row(card, "[Shitao")


def test_a_licence_file_of_an_ingredient_is_linked_in_its_own_repo(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    own = LicenseInfo(license="other", name="my-terms", link="LICENSE.md")
    card = render_card(recipe, replace(facts, licenses=dict.fromkeys(facts.licenses, own)))
    address = f"https://huggingface.co/BAAI/bge-base-en-v1.5/blob/{'a' * 40}/LICENSE.md"
    assert (_data(card).license, _data(card).license_name) == ("other", "my-terms")
    assert _data(card).license_link == address
    assert f"| [`my-terms`]({address}) |" in card


def test_conflicting_licences_point_to_the_words_about_them(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    licenses = dict(zip(facts.licenses, (LicenseInfo(license="llama2"), LicenseInfo(license="gemma")), strict=True))
    card = render_card(recipe, replace(facts, licenses=licenses))
    assert (_data(card).license, _data(card).license_name) == ("other", "llama2-and-gemma")
    assert _data(card).license_link == "https://huggingface.co/me/bge-hotpot#licences"
    assert "no single one of them covers the mix" in card


def test_licences_that_nobody_read_are_not_called_missing(recipe: ResolvedRecipe, facts: CardFacts) -> None:
    card = render_card(recipe, replace(facts, licenses={}))
    assert _data(card).license is None
    assert "## Licences\n\nThe licences of the ingredients were not read.\n" in card


# -- recipes with open weights --------------------------------------------------------------------------------------

COMMITS = {"a": "a" * 40, "b": "b" * 40, "c": "c" * 40}


def open_recipe(weighting: dict[str, object], **keys: object) -> Recipe:
    models = [{"model": f"org/{name}", "revision": COMMITS[name], "requested": "main"} for name in "ab"]
    return Recipe.from_dict({"ingredients": models, "weighting": weighting, **keys})


@pytest.fixture
def recipe_facts(facts: CardFacts) -> CardFacts:
    return replace(facts, form="recipe", licenses={}, languages={})


def test_open_weights_are_called_computed_on_first_use(recipe_facts: CardFacts) -> None:
    card = render_card(open_recipe({"examples": "examples.jsonl"}), recipe_facts)
    assert re.findall(r"\| \[org/[ab]\].*\| ([\w ]+) \|\n", card) == ["computed on first use"] * 2
    assert (
        "- The weights are computed on first use: `softmax(-loss / temperature)` of each ingredient's mean loss on "
        "`examples.jsonl` ([LM-Cocktail](https://arxiv.org/abs/2311.13534)), with temperature 5." in card
    )
    assert "Digest of the mix" not in card
    assert "\n\n\n" not in card


def test_open_weights_by_a_metric_name_it(recipe_facts: CardFacts) -> None:
    given = {"examples": "e.jsonl", "rule": "greedy"}
    said = "- The weights are computed on first use: the best that `greedy` finds by {} on `e.jsonl`.\n"
    assert said.format("MRR") in render_card(open_recipe(given | {"metric": "MRR"}), recipe_facts)
    assert said.format("the first metric of its kind") in render_card(open_recipe(given), recipe_facts)


def test_examples_in_the_recipe_and_an_automatic_temperature_are_described(recipe_facts: CardFacts) -> None:
    weighting = {"examples": [{"input": "a", "output": "b"}], "temperature": "auto"}
    card = render_card(open_recipe(weighting), recipe_facts)
    assert "mean loss on the examples in the recipe (" in card
    assert "with temperature a temperature" not in card
    assert "with a temperature that follows from the losses' noise." in card


def test_equal_weights_are_called_equal(recipe_facts: CardFacts) -> None:
    assert "- The weights are equal." in render_card(open_recipe({"rule": "uniform"}), recipe_facts)


def test_an_open_anchor_is_a_row_and_gives_config_and_tokenizer(recipe_facts: CardFacts) -> None:
    anchor = {"model": "org/c", "revision": COMMITS["c"], "requested": "main", "share": 0.5}
    card = render_card(open_recipe({"examples": "e.jsonl"}, anchor=anchor), recipe_facts)
    assert re.search(r"\| \[org/c\].*\| 0\.5 \(anchor\) \|", card)
    assert "Config and tokenizer come from [org/c](https://huggingface.co/org/c)." in card
    assert "a mix of 3 models" in card


def test_an_open_card_passes_the_hub_s_own_checks_of_metadata(recipe_facts: CardFacts) -> None:
    card = ModelCard(render_card(open_recipe({"examples": "e.jsonl"}), recipe_facts))
    assert card.data.to_dict()["base_model"] == ["org/a", "org/b"]
    assert card.data.to_dict()["library_name"] == "cocktail-hub"


def test_paths_of_examples_are_not_shown() -> None:
    shown = public_recipe(open_recipe({"examples": "/home/me/secret/examples.jsonl"}))
    assert shown.weighting is not None
    assert shown.weighting.examples == "examples.jsonl"


def test_what_transformers_does_not_load_is_not_loaded_through_auto_cocktail_model(recipe_facts: CardFacts) -> None:
    facts = replace(recipe_facts, architecture=None, load_classes=("SentenceTransformer",), processor=None)
    card = render_card(open_recipe({"rule": "uniform"}), facts)
    assert "import cocktail_hub\nfrom sentence_transformers import SentenceTransformer" in card
    assert "AutoCocktailModel" not in card
