"""What reads files of strangers, by kind of file: each takes bytes, and ends in a value or in one of our errors."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.adapters.config import read_adapter_config
from cocktail_hub.checkpoint.header import parse_header
from cocktail_hub.checkpoint.model_files import read_config, read_model_files
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.compat.config import differences, file_differences, model_kind, require_same_family
from cocktail_hub.compat.layers import number_of_layers
from cocktail_hub.compat.vocabulary import compare, find_vocabulary, require_rows, splits_otherwise
from cocktail_hub.errors import CocktailError
from cocktail_hub.evaluation.example_files import read_rows
from cocktail_hub.evaluation.examples import check_examples
from cocktail_hub.publishing.card.facts import combine_licenses, languages_of, license_of
from cocktail_hub.publishing.card.header import drop_section, merge_readme, read_metadata
from cocktail_hub.recipe import dump_yaml, parse_recipe
from cocktail_hub.recipe.to_mergekit import to_mergekit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
CONFIG = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 3,
    "id2label": {"0": "a", "1": "b"},
    "label2id": {"a": 0, "b": 1},
    "rope_scaling": {"type": "linear", "factor": 2.0},
    "text_config": {"hidden_act": "gelu"},
    "quantization_config": None,
}
TOKENIZER = {
    "added_tokens": [{"id": 0, "content": "[PAD]", "special": True}],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}]},
    "model": {"type": "BPE", "vocab": {"[PAD]": 0, "a": 1, "b": 2}, "merges": [["a", "b"]]},
}
ADAPTER = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["query"],
    "rank_pattern": {"query": 4},
    "alpha_pattern": {"key": 8},
    "base_model_name_or_path": "me/it",
    "auto_mapping": {"base_model_class": "BertModel"},
}
RECIPE = {
    "schema": 1,
    "method": "ties",
    "base": "me/base",
    "ingredients": [
        {"model": "me/a", "weight": 0.5, "parameters": {"density": [0.1, 0.5]}},
        {"model": "me/b@main", "weight": [{"match": "*.weight", "value": 0.5}, {"value": 1}], "layer_range": [0, 2]},
        {"recipe": {"ingredients": [{"model": "me/c", "weight": 0.5}, {"model": "me/d", "weight": 0.5}]}, "weight": 1},
    ],
    "parameters": {"density": 0.5},
    "layers": [{"match": "layer.*", "weights": [0.5, 0.5, 0.5]}],
    "keep": ["lm_head*"],
    "missing": {"head.*": "first"},
    "tokens": {"[PAD]": "base"},
    "chat_template": "chatml",
    "evidence": {"losses": [1, 2]},
}
MERGEKIT = {
    "merge_method": "ties",
    "base_model": "me/base",
    "models": [
        {"model": "me/a", "parameters": {"weight": 0.5, "density": [0.1, 0.5]}},
        {
            "model": {"model": {"path": "me/b", "revision": "main"}},
            "parameters": {"weight": [{"filter": "mlp", "value": 1}]},
        },
    ],
    "parameters": {"normalize": True, "int8_mask": True},
    "slices": [{"sources": [{"model": "me/a", "layer_range": [0, 2]}]}],
    "tokenizer": {"source": "union", "tokens": {"a": {"source": "me/a", "force": True}}},
    "dtype": "float32",
}
CARD = {"license": "mit", "language": ["en"], "tags": ["a"], "license_name": "x", "model-index": [{"name": "x"}]}
ROWS = [{"query": "q", "pos": ["p"], "neg": ["n"], "input": "i", "output": "o"}]
SETTINGS = {"added_tokens_decoder": {"0": {"content": "[PAD]"}}, "chat_template": [{"name": "a", "template": "b"}]}
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
INDEX = {"metadata": {"total_size": 4}, "weight_map": {"a": "a.safetensors"}}


class Memory:
    """Files of a model that are not on a disk."""

    name = "it"

    def __init__(self, **content: bytes) -> None:
        self.content = {name.replace("__", "."): data for name, data in content.items()}
        self.sizes = {name: len(data) for name, data in self.content.items()}

    def read(self, path: str) -> bytes:
        return self.content[path]

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        return self.content[path][start:stop]


def file_of(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + b"1234"


def _recipe(data: bytes, _: Path) -> None:
    recipe = parse_recipe(data.decode(errors="replace"))
    assert parse_recipe(dump_yaml(recipe)) == recipe
    to_mergekit(recipe)


def _header(data: bytes, _: Path) -> None:
    parse_header(data, size=8 + len(data) + 4, path="a", model="b")


def _index(data: bytes, _: Path) -> None:
    inner = file_of(json.dumps({"a": ENTRY}).encode())
    read_weight_files(Memory(model__safetensors__index__json=data, a__safetensors=inner))


def _config(data: bytes, _: Path) -> None:
    files = Memory(config__json=data, model__safetensors=file_of(json.dumps({"a": ENTRY}).encode()))
    config = read_config(files)
    model_kind(files, config)
    read_weight_files(files)
    for pair in ([CONFIG, config], [config, CONFIG]):
        differences(["a", "b"], pair)
        with suppress(CocktailError):
            require_same_family(["a", "b"], pair)
    number_of_layers("a", config)


def _settings(data: bytes, _: Path) -> None:
    for name in ("tokenizer_config__json", "config_sentence_transformers__json", "generation_config__json"):
        ours = Memory(**{name: json.dumps(SETTINGS).encode()})
        file_differences(["a", "b"], [[ours], [Memory(**{name: data})]], ["", ""])
    find_vocabulary(Memory(tokenizer_config__json=data, tokenizer__json=json.dumps(TOKENIZER).encode()))


def _vocabulary(data: bytes, _: Path) -> None:
    compare(*(find_vocabulary(Memory(added_tokens__json=data, vocab__json=own)) for own in (data, b'{"a": 1}')))


def _modules(data: bytes, _: Path) -> None:
    read_model_files(Memory(modules__json=data, model__safetensors=b"", config__json=b"{}"))


def _tokenizer(data: bytes, _: Path) -> None:
    mine = find_vocabulary(Memory(tokenizer__json=json.dumps(TOKENIZER).encode()))
    for name in ("tokenizer__json", "vocab__json", "tokenizer__model", "vocab__txt"):
        theirs = find_vocabulary(Memory(**{name: data}))
        for pair in ((mine, theirs), (theirs, mine)):
            with suppress(CocktailError):
                compare(*pair, rows=3)
            with suppress(CocktailError):
                splits_otherwise(*pair, tokenizer="a")
        with suppress(CocktailError):
            require_rows(theirs, [mine], 3)


def _pieces(data: bytes, _: Path) -> None:
    find_vocabulary(Memory(tokenizer__model=data)).tokens  # noqa: B018 - read where it is asked for


def _adapter(data: bytes, _: Path) -> None:
    found = read_adapter_config(Memory(adapter_config__json=data))
    found.scale("a.query")


def _card(data: bytes, _: Path) -> None:
    text = data.decode(errors="replace")
    metadata = read_metadata(text)
    languages_of(metadata)
    combine_licenses({"a": license_of(metadata), "b": None})
    combine_licenses({"a": license_of(metadata)})
    with suppress(CocktailError):
        drop_section(text)
    merge_readme(text, "---\ntags: [b]\nlicense: mit\n---\n<!-- cocktail_hub: start -->\n<!-- cocktail_hub: end -->\n")


def _examples(data: bytes, folder: Path) -> None:
    for suffix in (".jsonl", ".json", ".csv", ".tsv", ".parquet"):
        path = folder / f"a{suffix}"
        path.write_bytes(data)
        with suppress(CocktailError):
            rows = read_rows(path)
            check_examples(rows, "encoder")


PARSERS: Mapping[str, tuple[Callable[[bytes, Path], None], tuple[Any, ...]]] = {
    "recipe": (_recipe, (RECIPE, MERGEKIT)),
    "header": (_header, ({"a": ENTRY, "__metadata__": {"format": "pt"}},)),
    "index": (_index, (INDEX,)),
    "config": (_config, (CONFIG,)),
    "settings": (_settings, (SETTINGS,)),
    "vocabulary": (_vocabulary, ({"[PAD]": 0, "a": 1},)),
    "modules": (_modules, (MODULES,)),
    "tokenizer": (_tokenizer, (TOKENIZER,)),
    "pieces": (_pieces, ("a",)),
    "adapter": (_adapter, (ADAPTER,)),
    "card": (_card, (CARD,)),
    "examples": (_examples, (ROWS, ROWS[0])),
}
"""Kind of file -> what reads it, and what such files hold."""


def parse(kind: str, data: bytes, folder: Path) -> None:
    """Read a file. Raises whatever is not one of our errors."""
    with suppress(CocktailError):
        PARSERS[kind][0](data, folder)
