"""Chat templates by name, as text, and from a model: what the mix's tokenizer then makes of messages."""

from __future__ import annotations

from pathlib import Path

import models
import pytest
from transformers import AutoTokenizer

from cocktail_hub import mix
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.merge.chat_templates import BUILT_IN
from cocktail_hub.recipe.recipe import TEMPLATES

TALK = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
SAID = {
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "alpaca": "Be kind.\n\n### Instruction:\nHi\n\n### Response:\n",
}


def said(folder: Path) -> str:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return str(tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True))


def test_every_name_of_a_recipe_is_a_template() -> None:
    assert tuple(sorted(BUILT_IN)) == TEMPLATES


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_well_known_template_says(name: str) -> None:
    tokenizer = models.text_tokenizer()
    tokenizer.chat_template = BUILT_IN[name]
    assert tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True) == SAID[name]


@pytest.mark.whole
def test_the_mix_has_the_template_that_the_recipe_names_or_spells_out(tmp_path: Path) -> None:
    recipe = models.pair("llama").local_recipe
    assert said(mix(recipe).path) == "Be kind. Hi "
    assert said(mix(recipe | {"chat_template": "chatml"}).path) == SAID["chatml"]
    assert said(mix(recipe | {"chat_template": "{{ messages[1]['content'] }}!"}).path) == "Hi!"


@pytest.mark.whole
def test_the_template_of_another_model_goes_with_the_tokenizer_of_the_first(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        models.save("llama", 1, tmp_path / name)
        tokenizer = models.text_tokenizer()
        tokenizer.chat_template = "{{ '" + name + "' }}"
        tokenizer.save_pretrained(tmp_path / name)
        found.append({"model": str(tmp_path / name), "weight": 0.5})
    assert said(mix({"ingredients": found}).path) == "one"
    assert said(mix({"ingredients": found, "chat_template": str(tmp_path / "two")}).path) == "two"
    (tmp_path / "two/chat_template.jinja").unlink()
    with pytest.raises(IncompatibleError, match="two', which `chat_template` names, has no chat template"):
        mix({"ingredients": found, "chat_template": str(tmp_path / "two")})
