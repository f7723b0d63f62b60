"""Which ingredient gives which small file of a mix, and what config.json says of the rest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from models import SHARES, TOKEN, WEIGHTS, assert_holds, expected, pair, push, read_pushed, save, words_tokenizer
from safetensors.torch import save_file

from cocktail_hub import (
    AutoCocktailModel,
    Mix,
    MixOptions,
    check,
    mix,
    publish,
    score,
)
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.hub import Hub
from cocktail_hub.recipe import Recipe

if TYPE_CHECKING:
    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole


def copies(tmp_path: Path, family: str = "bert") -> tuple[Path, Path]:
    """Two models whose small files a test may change."""
    first, second = (tmp_path / name for name in ("first", "second"))
    for source, target in zip(pair(family).folders, (first, second), strict=True):
        shutil.copytree(source, target)
    return first, second


def mixed(first: Path, second: Path, **keys: Any) -> Mix:
    models = [{"model": str(m), "weight": w} for m, w in zip((first, second), SHARES, strict=True)]
    return mix({"ingredients": models, **keys})


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps((read(path) if path.exists() else {}) | values))


def test_everything_comes_from_the_first_ingredient(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    for folder in (first, second):
        (folder / "NOTICE.txt").write_text(folder.name)
        (folder / "preprocessor_config.json").write_text(json.dumps({"from": folder.name}))
    change(second / "config.json", hidden_dropout_prob=0.5)
    made = mixed(first, second)
    assert (made.path / "NOTICE.txt").read_text() == "first"
    assert read(made.path / "preprocessor_config.json") == {"from": "first"}
    assert read(made.path / "config.json")["hidden_dropout_prob"] == 0.1
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (made.path / name).read_bytes() == (first / name).read_bytes()


def test_config_comes_from_whom_the_recipe_names(tmp_path: Path) -> None:
    first, second = copies(tmp_path, "llama")
    change(second / "config.json", max_position_embeddings=99)
    change(second / "generation_config.json", max_new_tokens=11)
    change(second / "tokenizer_config.json", model_max_length=5)
    made = mixed(first, second, config=str(second))
    assert read(made.path / "config.json")["max_position_embeddings"] == 99
    assert read(made.path / "generation_config.json")["max_new_tokens"] == 11
    assert read(made.path / "tokenizer_config.json")["model_max_length"] == 64


def test_tokenizer_comes_whole_from_whom_the_recipe_names(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    (first / "vocab.txt").write_text("only the first has this file")
    change(second / "tokenizer_config.json", model_max_length=5)
    (second / "chat_template.jinja").write_text("template of the second")
    (second / "additional_chat_templates").mkdir()
    (second / "additional_chat_templates" / "tool.jinja").write_text("another of the second")
    made = mixed(first, second, tokenizer=str(second))
    assert read(made.path / "tokenizer_config.json")["model_max_length"] == 5
    assert not (made.path / "vocab.txt").exists()
    assert (made.path / "chat_template.jinja").read_text() == "template of the second"
    assert (made.path / "additional_chat_templates" / "tool.jinja").read_text() == "another of the second"


def adapter_on(base: Path, folder: Path) -> Path:
    """An adapter that changes one matrix, without any small files."""
    folder.mkdir()
    name = "base_model.model.encoder.layer.0.attention.self.query"
    size = read(base / "config.json")["hidden_size"]
    factors = {f"{name}.lora_A.weight": torch.ones(1, size), f"{name}.lora_B.weight": torch.ones(size, 1)}
    save_file(factors, folder / "adapter_model.safetensors")
    change(
        folder / "adapter_config.json",
        peft_type="LORA",
        r=1,
        lora_alpha=1,
        target_modules=["query"],
        base_model_name_or_path=str(base),
    )
    return folder


def test_an_adapter_with_a_chat_template_alone_has_its_base_s_tokenizer_and_processor(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    change(first / "preprocessor_config.json", size=3)
    (first / "chat_template.jinja").write_text("template of the base")
    adapter = adapter_on(first, tmp_path / "adapter")
    (adapter / "chat_template.jinja").write_text("template of the adapter")
    made = mixed(adapter, second)
    assert (made.path / "chat_template.jinja").read_text() == "template of the adapter"
    assert read(made.path / "preprocessor_config.json") == {"size": 3}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (made.path / name).read_bytes() == (first / name).read_bytes()


def test_an_adapter_with_a_tokenizer_alone_has_its_base_s_processor_and_template(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    change(first / "preprocessor_config.json", size=3)
    (first / "vocab.txt").write_text("only the base has this file")
    (first / "chat_template.jinja").write_text("template of the base")
    adapter = adapter_on(first, tmp_path / "adapter")
    shutil.copy(first / "tokenizer.json", adapter)
    made = mixed(adapter, second)
    assert read(made.path / "preprocessor_config.json") == {"size": 3}
    assert (made.path / "chat_template.jinja").read_text() == "template of the base"
    assert (made.path / "tokenizer.json").exists()
    assert not (made.path / "vocab.txt").exists()
    assert not (made.path / "tokenizer_config.json").exists()


def test_a_chat_template_in_an_adapter_s_settings_becomes_a_file(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    adapter = adapter_on(first, tmp_path / "adapter")
    templates = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    change(adapter / "tokenizer_config.json", chat_template=[*templates, {"name": "../out", "template": "no"}])
    made = mixed(adapter, second)
    assert (made.path / "chat_template.jinja").read_text() == "plain"
    assert {path.name for path in (made.path / "additional_chat_templates").iterdir()} == {"tool_use.jinja"}
    assert (made.path / "tokenizer_config.json").read_bytes() == (first / "tokenizer_config.json").read_bytes()


def test_another_chat_template_than_that_of_the_mix_is_noted(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    change(second / "tokenizer_config.json", chat_template="{{ messages }}")

    def noted(*folders: Path) -> list[str]:
        found = check({"ingredients": [{"model": str(folder), "weight": 0.5} for folder in folders]}).notes
        return [note for note in found if "chat template" in note]

    assert noted(first, second) == [f"The chat template of '{second}' is not that of the mix, which has none."]
    assert noted(second, first) == []
    (first / "chat_template.jinja").write_text("{{ messages }}\n")  # the same one
    assert noted(first, second) == []
    (first / "chat_template.jinja").write_text("{{ tools }}")
    words = f"The chat template of '{second}' is not that of the mix, which has that of '{first}'."
    assert noted(first, second) == [words]


def test_a_missing_tokenizer_comes_from_the_first_ingredient_or_is_noted(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    for path in second.glob("tokenizer*"):
        path.unlink()
    models = {"ingredients": [{"model": str(m), "weight": 0.5} for m in (first, second)]}
    named = f"'{second}', which `tokenizer` names, has no tokenizer; the mix has that of '{first}'."
    assert named in check(models | {"tokenizer": str(second)}).notes
    made = mix(models | {"tokenizer": str(second)})
    assert (made.path / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()
    turned = {"ingredients": models["ingredients"][::-1]}
    assert any(
        f"'{second}' has no tokenizer, so the mix has none; to give it that of '{first}'" in note
        for note in check(turned).notes
    )
    assert not (mix(turned).path / "tokenizer.json").exists()


def add_token(folder: Path, token: str) -> int:
    """Add a token to a tokenizer, with the first id that has no row in the embeddings."""
    rows = read(folder / "config.json")["vocab_size"]
    data = read(folder / "tokenizer.json")
    entry = {"id": rows, "content": token, "special": True, "normalized": False}
    rest = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    change(folder / "tokenizer.json", added_tokens=[*data["added_tokens"], entry | rest])
    return rows


def test_a_tokenizer_with_more_tokens_than_the_embeddings_have_rows_is_refused(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    rows = add_token(second, "<new>")
    models = [{"model": str(m), "weight": w} for m, w in zip((first, second), SHARES, strict=True)]
    with pytest.raises(IncompatibleError, match=rf"1 tokens .such as {rows}: '<new>'., but the .* have {rows} rows"):
        check({"ingredients": models, "tokenizer": str(second)})
    with pytest.raises(IncompatibleError, match=rf"under `tokenizer`, such as '{first}'"):
        check({"ingredients": models[::-1]})
    made = mix({"ingredients": models}).path
    assert (made / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()
    add_token(first, "<new>")
    change(first / "tokenizer.json", version="0.9")
    (note,) = check({"ingredients": models}).notes
    assert note == (
        f"The tokenizer of the mix has ids for 1 tokens (such as {rows}: '<new>'), but the embeddings have {rows} "
        "rows, as in its ingredients."
    )


def test_adapters_for_languages_and_language_models_are_said_to_be_left_out(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    (first / "language_model").mkdir()
    for name in ("adapter.eng.safetensors", "language_model/attrs.json"):
        (first / name).write_text("{}")
    assert mixed(first, second).report  # they do not hinder the mix
    models = [{"model": str(m), "weight": w} for m, w in zip((first, second), SHARES, strict=True)]
    assert check({"ingredients": models}).notes == (
        f"'{first}' also has weights in 'adapter.eng.safetensors', which are not mixed and not in the mix.",
        f"'{first}' has files that are not mixed and not copied: language_model/attrs.json.",
    )


def test_small_files_move_between_old_and_new_layouts(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    (first / "0_Transformer").mkdir()
    for path in [path for path in first.iterdir() if path.is_file()]:
        path.rename(first / "0_Transformer" / path.name)
    types = (
        ("0_Transformer", "sentence_transformers.models.Transformer"),
        ("1_Pooling", "sentence_transformers.models.Pooling"),
    )
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(types)]
    (first / "modules.json").write_text(json.dumps(modules))
    (first / "1_Pooling").mkdir()
    (first / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16}))
    change(second / "config.json", hidden_dropout_prob=0.5)
    change(second / "tokenizer_config.json", model_max_length=5)
    made = mixed(first, second, config=str(second), tokenizer=str(second))
    assert read(made.path / "0_Transformer" / "config.json")["hidden_dropout_prob"] == 0.5
    assert read(made.path / "0_Transformer" / "tokenizer_config.json")["model_max_length"] == 5
    assert read(made.path / "1_Pooling" / "config.json") == {"word_embedding_dimension": 16}
    assert not (made.path / "config.json").exists()
    assert (made.path / "0_Transformer" / WEIGHTS).exists()


def test_the_config_says_nothing_that_would_be_wrong_once_the_model_is_trained(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    kept = read(first / "config.json")
    change(first / "config.json", _name_or_path="/home/me/model", cocktail={"digest": "of an early version"})
    assert read(mixed(first, second).path / "config.json") == kept


def test_the_recipe_beside_it_makes_the_mix_again(tmp_path: Path) -> None:
    made = mixed(*copies(tmp_path))
    recipe = Recipe.from_dict(read(made.path / "recipe.json"))
    assert mix(recipe).report["cached"] is True
    assert mix(recipe).path == made.path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_of_the_recipe_is_that_of_the_config(dtype: str, tmp_path: Path) -> None:
    made = mixed(*copies(tmp_path), dtype=dtype)
    config = read(made.path / "config.json")
    assert config["dtype"] == dtype
    assert "torch_dtype" not in config
    assert transformers.AutoModel.from_pretrained(made.path).dtype == getattr(torch, dtype)


def test_the_dtype_stays_the_first_ingredient_s_whoever_gives_the_config(tmp_path: Path) -> None:
    first, second = save("llama-bf16", 1, tmp_path / "first"), save("llama", 2, tmp_path / "second")
    assert read(second / "config.json")["dtype"] == "float32"
    made = mixed(first, second, config=str(second))
    assert read(made.path / "config.json")["dtype"] == "bfloat16"
    assert made.load().dtype == torch.bfloat16


def test_code_of_the_ingredients_is_left_behind_and_nothing_points_to_it(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    (first / "modeling_own.py").write_text("raise RuntimeError")
    change(first / "config.json", auto_map={"AutoModel": "modeling_own.OwnModel"})
    made = mixed(first, second)
    assert not (made.path / "modeling_own.py").exists()
    assert "auto_map" not in read(made.path / "config.json")
    assert type(transformers.AutoModel.from_pretrained(made.path, trust_remote_code=True)) is transformers.BertModel


OWN_CODE = """
from transformers import BertConfig, BertModel

class OwnConfig(BertConfig):
    model_type = "own-bert"

class OwnModel(BertModel):
    config_class = OwnConfig
"""


def test_code_that_a_model_needs_goes_along_where_it_is_trusted(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    for folder in (first, second):
        (folder / "modeling_own.py").write_text(OWN_CODE)
        auto_map = {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
        change(folder / "config.json", model_type="own-bert", architectures=["OwnModel"], auto_map=auto_map)
    with pytest.raises(IncompatibleError, match=r"pass `trust_remote_code=True`"):
        mixed(first, second)
    models = [{"model": str(m), "weight": w} for m, w in zip((first, second), SHARES, strict=True)]
    model = AutoCocktailModel.from_pretrained({"ingredients": models}, trust_remote_code=True)
    assert type(model).__name__ == "OwnModel"
    assert_holds(model, expected("bert"))
    (code,) = mix({"ingredients": models}, options=MixOptions(trust_remote_code=True, force=True)).report["notes"]
    assert code == f"The mix comes with Python code of '{first}', and runs it: modeling_own.py."
    (second / "modeling_own.py").write_text(f"{OWN_CODE}\n")
    _, other = check({"ingredients": models}, options=MixOptions(trust_remote_code=True)).notes
    assert other == f"'{second}' has other code than that in modeling_own.py."


@pytest.fixture
def code_elsewhere(hub: LoopbackHub, tmp_path: Path) -> tuple[dict[str, Any], MixOptions]:
    """Two models whose code is in a repo of its own, and options that trust it."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "modeling_own.py").write_text(OWN_CODE)
    push(tmp_path / "code", "acme/own-code")
    names = []
    for number, folder in enumerate(copies(tmp_path)):
        auto_map = {name: f"acme/own-code--modeling_own.Own{name[4:]}" for name in ("AutoConfig", "AutoModel")}
        change(folder / "config.json", model_type="own-bert", architectures=["OwnModel"], auto_map=auto_map)
        names.append({"model": f"acme/code-elsewhere-{number}", "weight": SHARES[number]})
        push(folder, names[-1]["model"])
    options = MixOptions(trust_remote_code=True, hub=Hub(token=TOKEN, cache_dir=tmp_path / "hub"))
    return {"ingredients": names}, options


def test_code_elsewhere_goes_along_at_its_commit(
    code_elsewhere: tuple[dict[str, Any], MixOptions], tmp_path: Path
) -> None:
    recipe, options = code_elsewhere
    made = mix(recipe, options=options)
    first = (made.recipe.evidence or {})["code"]["acme/own-code"]
    note = f"The mix, or a model that is scored, may run Python code of 'acme/own-code' at commit {first}."
    assert note in made.report["notes"]
    assert read(made.path / "config.json")["auto_map"]["AutoModel"] == "modeling_own.OwnModel"
    (tmp_path / "code" / "modeling_own.py").write_text("raise RuntimeError")
    newest = push(tmp_path / "code", "acme/own-code")
    assert type(transformers.AutoModel.from_pretrained(made.path, trust_remote_code=True)).__name__ == "OwnModel"
    again = mix(made.path / "recipe.json", output=tmp_path / "again", options=options)  # the recipe has the commit
    assert (again.path / "modeling_own.py").read_text() == OWN_CODE
    assert note.replace(first, newest) in check(recipe, options=options).notes


def test_a_model_that_is_scored_alone_runs_code_at_the_commit_of_its_recipe(
    code_elsewhere: tuple[dict[str, Any], MixOptions], tmp_path: Path
) -> None:
    recipe, options = code_elsewhere
    examples = [{"query": "the cat", "pos": ["the mat"], "neg": ["a dog"]}, {"query": "a", "pos": ["b"], "neg": ["c"]}]
    found = score(recipe | {"task": "feature-extraction"}, examples, options=options)
    commit = (found.recipe.evidence or {})["code"]["acme/own-code"]
    (tmp_path / "code" / "modeling_own.py").write_text("raise RuntimeError")
    push(tmp_path / "code", "acme/own-code")
    again = score(found.recipe, examples + examples, options=options)
    assert (again.recipe.evidence or {})["code"] == {"acme/own-code": commit}
    assert [own.mean for own in again.losses] == pytest.approx([own.mean for own in found.losses])


def test_two_files_of_code_with_one_name_are_refused(
    code_elsewhere: tuple[dict[str, Any], MixOptions], tmp_path: Path
) -> None:
    recipe, options = code_elsewhere
    own = tmp_path / "first"
    (own / "modeling_own.py").write_text("# another one")
    auto_map = {"AutoConfig": "acme/own-code--modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    change(own / "config.json", auto_map=auto_map)
    recipe["ingredients"][0]["model"] = str(own)
    with pytest.raises(IncompatibleError, match=r"code from 'acme/own-code', and other code in .+ 'modeling_own.py'"):
        mix(recipe, output=tmp_path / "out", options=options)


def test_code_is_fetched_from_the_hub_where_it_is_trusted(hub: LoopbackHub, tmp_path: Path) -> None:
    """For scoring, and with a published mix, too."""
    names = []
    for number, folder in enumerate(copies(tmp_path)):
        (folder / "modeling_own.py").write_text(OWN_CODE)
        auto_map = {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
        change(folder / "config.json", model_type="own-bert", architectures=["OwnModel"], auto_map=auto_map)
        names.append(f"acme/own-{number}")
        push(folder, names[-1])
    trusting = MixOptions(trust_remote_code=True, hub=Hub(token=TOKEN, cache_dir=tmp_path / "hub"))
    examples = [{"query": "the cat", "pos": ["the mat"], "neg": ["a dog"]}, {"query": "a", "pos": ["b"], "neg": ["c"]}]
    recipe = {"ingredients": names, "weighting": {"examples": examples}, "task": "feature-extraction"}
    publish(recipe, "alice/own-mix", options=trusting)
    model = AutoCocktailModel.from_pretrained("alice/own-mix", trust_remote_code=True, cache_dir=tmp_path / "other")
    assert type(model).__name__ == "OwnModel"


def test_what_belongs_to_training_or_other_formats_is_left_behind(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    for name in ("trainer_state.json", "optimizer.pt", "training_args.bin", "tf_model.h5", "README.md", "events.out"):
        (first / name).write_text("{}")
    (first / "onnx").mkdir()
    (first / "onnx" / "config.json").write_text("{}")
    made = mixed(first, second)
    found = {path.relative_to(made.path).as_posix() for path in made.path.rglob("*") if path.is_file()}
    assert found == {
        ".cocktail.json",
        "README.md",
        "config.json",
        "model.safetensors",
        "recipe.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (made.path / "README.md").read_text() != "{}"
    assert (
        words_tokenizer()("the")["input_ids"]
        == transformers.AutoTokenizer.from_pretrained(made.path)("the")["input_ids"]
    )


def test_code_of_another_repo_is_still_named_where_a_model_needs_it(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    code = {"AutoConfig": "acme/own--configuration.OwnConfig", "AutoModel": "acme/own--modeling.OwnModel"}
    for folder in (first, second):
        auto_map = code | {"AutoTokenizer": "tokenization.OwnTokenizer"}
        change(folder / "config.json", model_type="own-bert", architectures=["OwnModel"], auto_map=auto_map)
    with pytest.raises(
        IncompatibleError, match=r"is loaded as OwnModel, which transformers lacks, by .* from 'acme/own'"
    ):
        mixed(first, second)
    models = [{"model": str(m), "weight": w} for m, w in zip((first, second), SHARES, strict=True)]
    made = mix({"ingredients": models}, options=MixOptions(trust_remote_code=True))
    assert read(made.path / "config.json")["auto_map"] == code
    note = "The mix runs Python code from 'acme/own', which could not be found here, in its newest version."
    assert note in made.report["notes"]


def test_a_class_that_transformers_lacks_needs_trust_also_where_the_model_type_is_known(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    for folder in (first, second):
        (folder / "modeling_own.py").write_text(OWN_CODE)
        change(folder / "config.json", architectures=["OwnModel"], auto_map={"AutoModel": "modeling_own.OwnModel"})
    with pytest.raises(
        IncompatibleError, match=r"as OwnModel, which transformers lacks, by Python code from its own repo"
    ):
        mixed(first, second)
    models = [{"model": str(m), "weight": w} for m, w in zip((first, second), SHARES, strict=True)]
    made = mix({"ingredients": models}, options=MixOptions(trust_remote_code=True))
    assert read(made.path / "config.json")["auto_map"] == {"AutoModel": "modeling_own.OwnModel"}
    assert (made.path / "modeling_own.py").read_text() == OWN_CODE


def test_a_class_without_any_code_is_named_by_the_check(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    for folder in (first, second):
        change(folder / "config.json", architectures=["OwnModel"])
    models = [{"model": str(m), "weight": w} for m, w in zip((first, second), SHARES, strict=True)]
    notes = check({"ingredients": models}).notes
    assert [note.split(": ")[0] for note in notes] == [
        f"'{folder}' is a OwnModel, a class that transformers lacks, and its config.json names no code for it"
        for folder in (first, second)
    ]


def test_a_module_that_is_not_a_transformer_keeps_its_config_as_it_is(tmp_path: Path) -> None:
    folders = copies(tmp_path)
    for folder in folders:
        (folder / "config.json").write_text('{"frozen": false}')
    made = mixed(*folders)
    assert read(made.path / "config.json") == {"frozen": False}
    assert read(made.path / "recipe.json")["ingredients"][0]["model"] == str(folders[0])


def test_the_mix_has_the_standard_weight_files_where_the_first_config_names_another(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    for folder in (first, second):
        shutil.copy(folder / "model.safetensors", folder / "v2.safetensors")
        (folder / "model.safetensors").write_bytes(b"stale")
        change(folder / "config.json", transformers_weights="v2.safetensors")
    made = mixed(first, second)
    assert "transformers_weights" not in read(made.path / "config.json")
    assert_holds(transformers.AutoModel.from_pretrained(made.path), expected("bert"))


OWN = {"AutoTokenizer": ["own_tokenizer.OwnTokenizer", None]}


def with_own_tokenizer(folder: Path, name: str = "OwnTokenizer") -> None:
    """Give a model a tokenizer of its own code, which reads like that of BERT."""
    change(folder / "tokenizer_config.json", tokenizer_class=name, auto_map=OWN)
    (folder / "own_tokenizer.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n\nclass OwnTokenizer(PreTrainedTokenizerFast): pass\n"
    )


@pytest.mark.parametrize("key", ["first", "second"])
def test_a_tokenizer_of_own_code_needs_trust_and_comes_with_its_code(tmp_path: Path, key: str) -> None:
    folders = dict(zip(("first", "second"), copies(tmp_path), strict=True))
    with_own_tokenizer(folders[key])
    keys = {} if key == "first" else {"tokenizer": str(folders[key])}
    with pytest.raises(IncompatibleError) as caught:
        mixed(*folders.values(), **keys)
    assert str(caught.value) == (
        f"'{folders[key]}' gives the mix OwnTokenizer, which transformers lacks: it is Python code from its own repo "
        "(`auto_map` in tokenizer_config.json).\n"
        "Loading it would run that code on this machine.\n"
        "Read the code, then pass `trust_remote_code=True` (`--trust-remote-code`) if you trust it, or name another "
        "model under `tokenizer`."
    )
    models = [{"model": str(m), "weight": w} for m, w in zip(folders.values(), SHARES, strict=True)]
    made = mix({"ingredients": models, **keys}, options=MixOptions(trust_remote_code=True))
    loaded = transformers.AutoTokenizer.from_pretrained(made.path, trust_remote_code=True)
    assert type(loaded).__name__ == "OwnTokenizer"
    assert loaded("the cat")["input_ids"] == words_tokenizer()("the cat")["input_ids"]


def test_code_for_a_tokenizer_that_transformers_has_is_not_needed(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    with_own_tokenizer(first, "BertTokenizerFast")
    made = mixed(first, second)
    assert "auto_map" not in read(made.path / "tokenizer_config.json")
    assert not list(made.path.glob("*.py"))


def test_code_in_another_repo_stays_named(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    elsewhere = {"AutoTokenizer": ["org/code--own_tokenizer.OwnTokenizer", None]}
    change(first / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=elsewhere)
    with pytest.raises(IncompatibleError, match="it is Python code from 'org/code'"):
        mixed(first, second)
    change(first / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    assert read(mixed(first, second).path / "tokenizer_config.json")["auto_map"] == elsewhere


def test_a_recipe_repo_names_the_code_of_a_tokenizer_where_it_is(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    with_own_tokenizer(first)
    names = [f"acme/own-tokenizer-{folder.name}" for folder in (first, second)]
    for folder, name in zip((first, second), names, strict=True):
        push(folder, name)
    recipe = {"ingredients": [{"model": m, "weight": w} for m, w in zip(names, SHARES, strict=True)]}
    options = MixOptions(trust_remote_code=True)
    publish(recipe, "acme/own-tokenizer-recipe", as_="recipe", token=TOKEN, options=options)
    assert read_pushed("acme/own-tokenizer-recipe", "tokenizer_config.json")["auto_map"] == {
        "AutoTokenizer": ["acme/own-tokenizer-first--own_tokenizer.OwnTokenizer", None]
    }


def test_a_processor_of_own_code_needs_trust(tmp_path: Path) -> None:
    first, second = copies(tmp_path)
    own = {"image_processor_type": "OwnProcessor", "auto_map": {"AutoImageProcessor": "own.OwnProcessor"}}
    change(first / "preprocessor_config.json", **own)
    with pytest.raises(IncompatibleError, match=r"OwnProcessor, which transformers lacks.*preprocessor_config\.json"):
        mixed(first, second)
    change(first / "preprocessor_config.json", image_processor_type="ViTImageProcessor")
    assert read(mixed(first, second).path / "preprocessor_config.json") == {"image_processor_type": "ViTImageProcessor"}
