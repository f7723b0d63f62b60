"""Which tokenizers and processors need code; mixes with some are in `tests/merge/test_small_files.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.compat.own_code import refuse_own_code
from cocktail_hub.compat.vocabulary import code_configs
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.recipe import ModelReference
from cocktail_hub.resolve.resolve import ResolvedModel


def model(folder: Path, name: str, values: Any) -> ResolvedModel:
    for path, content in {"config.json": {}, name: values}.items():
        (folder / path).write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(b"")
    return ResolvedModel(reference=ModelReference(model=str(folder)), files=LocalFiles(folder))


def refuse_all(giver: ResolvedModel) -> None:
    for path in code_configs(giver):
        refuse_own_code(giver, path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": "own.Own"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "own.Own"]}, "tokenizer_class": "OwnFast"}),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "own.Own"}, "processor_class": "Own"}),
        ("video_preprocessor_config.json", {"auto_map": {"AutoVideoProcessor": "o/r--own.Own"}}),
    ],
)
def test_a_class_that_transformers_lacks_needs_trust(tmp_path: Path, name: str, values: dict[str, Any]) -> None:
    with pytest.raises(IncompatibleError, match=rf"which transformers lacks: it is Python code .*in {name}"):
        refuse_all(model(tmp_path, name, values))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": "own.Own"}, "tokenizer_class": "BertTokenizer"}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": "own.Own"}, "tokenizer_class": "BertTokenizerFast"}),
        ("tokenizer_config.json", {"auto_map": {"AutoModel": "own.Own"}, "tokenizer_class": "Own"}),
        ("tokenizer_config.json", {"auto_map": None, "tokenizer_class": "Own"}),
        ("tokenizer_config.json", []),
        ("sentence_bert_config.json", {"auto_map": {"AutoTokenizer": "own.Own"}}),
    ],
)
def test_everything_else_does_not(tmp_path: Path, name: str, values: Any) -> None:
    refuse_all(model(tmp_path, name, values))
