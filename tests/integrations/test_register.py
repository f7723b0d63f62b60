"""After `import cocktail_hub`, the libraries around transformers take a recipe repo without `trust_remote_code`."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
import transformers
from models import ORG, TEXTS, TOKEN, architecture, assert_holds, expected, pair, published, push, push_recipe

from cocktail_hub import CocktailConfig, mix, publish
from cocktail_hub.errors import CocktailError
from cocktail_hub.integrations.register import register

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole

AUTO_CLASSES = {
    "llama": "AutoModelForCausalLM",
    "t5": "AutoModelForSeq2SeqLM",
    "bart": "AutoModelForSeq2SeqLM",
    "bert": "AutoModel",
    "masked": "AutoModelForMaskedLM",
    "reranker": "AutoModelForSequenceClassification",
    "classifier": "AutoModelForSequenceClassification",
}


def recipe_repo(family: str) -> str:
    return push_recipe(family, f"{ORG}/registered-{family}")


def run(code: str, **environment: str) -> str:
    """Run Python in a process of its own, with warnings as errors, against the same Hub."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("family", AUTO_CLASSES)
def test_auto_classes_give_the_ordinary_model(family: str) -> None:
    model = getattr(transformers, AUTO_CLASSES[family]).from_pretrained(recipe_repo(family))
    assert type(model).__name__ == architecture(family)
    assert_holds(model, expected(family))


def test_every_auto_class_that_loads_models_knows_recipes() -> None:
    from transformers.models.auto import modeling_auto

    names = [name for name in dir(modeling_auto) if name.startswith("AutoModel")]
    real = [getattr(modeling_auto, name) for name in names if getattr(modeling_auto, name)._model_mapping is not None]
    assert len(real) > 30
    assert [auto.__name__ for auto in real if CocktailConfig not in auto._model_mapping] == []


def test_auto_model_gives_the_body_without_the_head() -> None:
    model = transformers.AutoModel.from_pretrained(recipe_repo("classifier"))
    assert type(model) is transformers.BertModel
    want = {name.removeprefix("bert."): t for name, t in expected("classifier").items() if name.startswith("bert.")}
    assert_holds(model, want)


def test_auto_model_gives_an_encoder_alone_without_a_decoder() -> None:
    model = transformers.AutoModel.from_pretrained(recipe_repo("t5-encoder"))
    assert type(model) is transformers.T5EncoderModel
    assert_holds(model, expected("t5-encoder"))


def test_native_models_keep_their_classes(tmp_path: Path) -> None:
    folder = pair("bert").folders[0]
    assert type(transformers.AutoModel.from_pretrained(folder)) is transformers.BertModel
    assert type(transformers.AutoConfig.from_pretrained(folder)) is transformers.BertConfig


def test_auto_config_gives_the_recipe() -> None:
    config = transformers.AutoConfig.from_pretrained(recipe_repo("bert"))
    assert type(config) is CocktailConfig
    assert config.ingredients == [f"{ORG}/bert-a", f"{ORG}/bert-b"]
    assert config.weights == [0.75, 0.25]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_auto_tokenizer_and_processor_give_the_tokenizer(family: str) -> None:
    own = transformers.AutoTokenizer.from_pretrained(pair(family).folders[0])
    for auto in (transformers.AutoTokenizer, transformers.AutoProcessor):
        found = auto.from_pretrained(recipe_repo(family))
        assert type(found) is type(own)
        assert found(list(TEXTS))["input_ids"] == own(list(TEXTS))["input_ids"]
        assert found.chat_template == own.chat_template


def test_pipelines_take_a_recipe() -> None:
    repo_id = push_recipe("classifier", f"{ORG}/registered-labels", id2label={"0": "cold", "1": "hot"})
    (answer,) = transformers.pipeline("text-classification", model=repo_id)(TEXTS[0])
    assert answer["label"] in {"cold", "hot"}
    features = transformers.pipeline("feature-extraction", model=recipe_repo("bert"))(TEXTS[0])
    model, tokenizer = transformers.BertModel.from_pretrained(_merged("bert")), _tokenizer("bert")
    with torch.no_grad():
        wanted = model(**tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(torch.tensor(features), wanted, rtol=0, atol=1e-6)
    filled = transformers.pipeline("fill-mask", model=recipe_repo("masked"))("the [MASK] sat")
    assert len(filled) == 5
    text = transformers.pipeline("text-generation", model=recipe_repo("llama"))(TEXTS[0], max_new_tokens=2)
    assert text[0]["generated_text"].startswith(TEXTS[0])


def _merged(family: str) -> str:
    return str(mix(recipe_repo(family)).path)


def _tokenizer(family: str) -> transformers.PreTrainedTokenizerFast:
    return transformers.AutoTokenizer.from_pretrained(pair(family).folders[0])


@pytest.mark.parametrize(
    ("family", "task"),
    [
        ("bert", "feature-extraction"),
        ("masked", "fill-mask"),
        ("llama", "text-generation"),
        ("classifier", "text-classification"),
        ("reranker", "text-classification"),
    ],
)
def test_a_pipeline_without_a_task_finds_it(family: str, task: str) -> None:
    publish(published(family).recipe, f"{ORG}/registered-task-{family}", as_="recipe", token=TOKEN)
    assert transformers.pipeline(model=f"{ORG}/registered-task-{family}").task == task


def test_a_pipeline_that_transformers_does_not_have_is_called_so() -> None:
    publish(published("bart").recipe, f"{ORG}/registered-task-bart", as_="recipe", token=TOKEN)
    with pytest.raises(RuntimeError, match=r"is for 'text2text-generation', and transformers has no such pipeline\.\n"):
        transformers.pipeline(model=f"{ORG}/registered-task-bart")


def test_a_pipeline_for_a_recipe_that_was_written_by_hand_asks_for_the_task() -> None:
    with pytest.raises(
        RuntimeError, match=r"does not say what the mix is for\.\nSo .*\nName one of .*feature-extraction"
    ):
        transformers.pipeline(model=recipe_repo("bert"))


def test_a_pipeline_asks_for_the_task_of_an_ordinary_model() -> None:
    with pytest.raises(RuntimeError, match="does not seem to have a correct `pipeline_tag`"):
        transformers.pipeline(model=published("bert").ids[0])


def test_a_merge_that_fails_in_a_pipeline_is_tried_once_and_says_why(hub: LoopbackHub, tmp_path: Path) -> None:
    recipe = published("classifier").recipe
    recipe["ingredients"][1]["model"] = published("t5-encoder").ids[0]
    CocktailConfig(recipe=recipe, architectures=["BertForSequenceClassification"]).save_pretrained(tmp_path)
    push(tmp_path, f"{ORG}/registered-broken")
    hub.clear_requests()
    with pytest.raises(CocktailError, match="it is a T5EncoderModel") as caught:
        transformers.pipeline("text-classification", model=f"{ORG}/registered-broken", dtype="float32")
    assert not isinstance(caught.value, (OSError, ValueError, RuntimeError))
    assert type(caught.value.__cause__).__name__ == "IncompatibleError"
    with pytest.raises(ValueError, match="it is a T5EncoderModel"):
        transformers.AutoModel.from_pretrained(f"{ORG}/registered-broken")
    pinned = [r.path for r in hub.requests if r.path.startswith(f"/api/models/{ORG}/t5-encoder-a/revision/main")]
    assert len(pinned) <= 2
    assert not [r.path for r in hub.requests if "safetensors" in r.path]


INTERRUPTED = """
from importlib.machinery import SourceFileLoader

import cocktail_hub

run = SourceFileLoader.exec_module

def interrupt(loader, module):
    if module.__name__ == "transformers.models.auto.configuration_auto":
        SourceFileLoader.exec_module = run
        raise KeyboardInterrupt
    run(loader, module)

SourceFileLoader.exec_module = interrupt
try:
    import transformers
    transformers.AutoConfig
except KeyboardInterrupt:
    pass
import transformers
"""


def test_an_import_that_was_interrupted_registers_when_it_is_repeated() -> None:
    assert run((INTERRUPTED + USE).format(repo=recipe_repo("bert"))) == "loaded"


def test_registering_again_changes_nothing() -> None:
    before = list(sys.meta_path)
    register()
    assert sys.meta_path == before


USE = """
model = transformers.AutoModel.from_pretrained({repo!r})
assert type(model).__name__ == "BertModel", model
print("loaded")
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import cocktail_hub, transformers; transformers.AutoTokenizer.from_pretrained({repo!r})",
        "import transformers; transformers.AutoModel; import cocktail_hub",
        "import transformers.models.auto.auto_factory, cocktail_hub; transformers.AutoConfig.from_pretrained({repo!r})",
    ],
)
def test_the_order_of_the_imports_does_not_matter(imports: str) -> None:
    assert run((imports + USE).format(repo=recipe_repo("bert"))) == "loaded"


def test_without_the_import_transformers_says_that_it_does_not_know_recipes() -> None:
    code = f"""
import transformers
try:
    transformers.AutoModel.from_pretrained({recipe_repo("bert")!r})
except ValueError as error:
    print("model type `cocktail`" in str(error))
"""
    assert run(code) == "True"


def test_a_cached_mix_loads_offline() -> None:
    repo_id = recipe_repo("bert")
    transformers.AutoModel.from_pretrained(repo_id)
    transformers.AutoTokenizer.from_pretrained(repo_id)
    code = f"""
import cocktail_hub, transformers
model = cocktail_hub.AutoCocktailModel.from_pretrained({repo_id!r})
other = transformers.AutoModel.from_pretrained({repo_id!r})
assert (model.pooler.dense.weight == other.pooler.dense.weight).all()
transformers.pipeline("feature-extraction", model={repo_id!r})
print("offline")
"""
    assert run(code, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9") == "offline"
