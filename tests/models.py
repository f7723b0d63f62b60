"""Tiny random models with tokenizers of their own, in folders and on the test Hub.

Every family comes as a pair of fine-tunes, 'acme/FAMILY-a' and 'acme/FAMILY-b', made once per test run and told apart
by their weights only. `expected(family, weights)` is their average, worked out by hand.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub import HfApi, hf_hub_download, list_repo_files
from safetensors.torch import load_file
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers import models as tokenizer_models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TOKEN = "hf_alice"
ORG = "acme"
WORDS = ("the", "a", "cat", "dog", "sat", "ran", "on", "in", "mat", "park", "pod", "yes", "no", "where", "is", "it")
TEXTS = ("the cat sat on the mat", "a dog ran in the park", "where is the pod")
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
WEIGHTS = "model.safetensors"
SHARES = (0.75, 0.25)
"""Weights of the recipes below: exact in every floating-point type."""


def words_tokenizer(max_length: int = 32) -> transformers.PreTrainedTokenizerFast:
    """One token per word, with BERT's special tokens."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    vocabulary = {word: number for number, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, **dict(zip(names, special, strict=True))
    )


def text_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """One token per word, with the special tokens and the chat template of a decoder."""
    special = ("<pad>", "<unk>", "<s>", "</s>")
    vocabulary = {word: number for number, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ("pad_token", "unk_token", "bos_token", "eos_token")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, **dict(zip(names, special, strict=True))
    )
    fast.chat_template = TEMPLATE
    return fast


def bert(class_name: str = "BertModel", **fields: Any) -> transformers.PreTrainedModel:
    """A BERT of two layers."""
    config = transformers.BertConfig(
        vocab_size=len(WORDS) + 5,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        **fields,
    )
    return getattr(transformers, class_name)(config)


def llama(class_name: str = "LlamaForCausalLM", **fields: Any) -> transformers.PreTrainedModel:
    """A Llama of two layers."""
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
        **fields,
    )
    return getattr(transformers, class_name)(config)


def t5(class_name: str = "T5ForConditionalGeneration") -> transformers.PreTrainedModel:
    """A T5 of two layers."""
    config = transformers.T5Config(
        vocab_size=len(WORDS) + 4, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return getattr(transformers, class_name)(config)


def bart() -> transformers.PreTrainedModel:
    """A BART of one layer."""
    config = transformers.BartConfig(
        vocab_size=len(WORDS) + 4,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
        decoder_start_token_id=3,
        forced_eos_token_id=3,
    )
    return transformers.BartForConditionalGeneration(config)


LABELS = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
FAMILIES: dict[str, tuple[Callable[[], transformers.PreTrainedModel], Callable[[], Any]]] = {
    "llama": (llama, text_tokenizer),
    "llama-bf16": (lambda: llama().bfloat16(), text_tokenizer),
    "llama-tied": (lambda: llama(tie_word_embeddings=True), text_tokenizer),
    "t5": (t5, text_tokenizer),
    "t5-encoder": (lambda: t5("T5EncoderModel"), text_tokenizer),
    "bart": (bart, text_tokenizer),
    "bert": (bert, words_tokenizer),
    "masked": (lambda: bert("BertForMaskedLM"), words_tokenizer),
    "reranker": (lambda: bert("BertForSequenceClassification", num_labels=1), words_tokenizer),
    "classifier": (lambda: bert("BertForSequenceClassification", **LABELS), words_tokenizer),
}
"""Name of a family -> how to make a model and its tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two models that differ in their weights only."""

    family: str
    folders: tuple[Path, Path]

    @property
    def ids(self) -> tuple[str, str]:
        """Their repos on the test Hub."""
        return (f"{ORG}/{self.family}-a", f"{ORG}/{self.family}-b")

    @property
    def recipe(self) -> dict[str, Any]:
        """Three quarters of the first, one quarter of the second, by their repos."""
        return {"ingredients": [{"model": m, "weight": w} for m, w in zip(self.ids, SHARES, strict=True)]}

    @property
    def local_recipe(self) -> dict[str, Any]:
        """The same by their folders."""
        named = zip(map(str, self.folders), SHARES, strict=True)
        return {"ingredients": [{"model": m, "weight": w} for m, w in named]}


@contextmanager
def saved_from(device: str) -> Iterator[None]:
    """Have `torch.save` note that tensors lie on a device, which this machine need not have."""
    registry = torch.serialization._package_registry
    registry.insert(0, (-1, lambda _: device, lambda *_: None))
    try:
        yield
    finally:
        registry.pop(0)


def root() -> Path:
    """Where the models of this test run lie; removed at its end with the Hub."""
    return Path(os.environ["HF_HOME"]).parent / "models"


def fill(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Give a model weights that a seed decides, large enough to tell models apart."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return model.eval()


def save(family: str, seed: int, folder: Path) -> Path:
    """Write a model of a family into a folder."""
    make, tokenizer = FAMILIES[family]
    fill(make(), seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@cache
def pair(family: str) -> Pair:
    """Two fine-tunes in folders."""
    folders = tuple(save(family, seed, root() / f"{family}-{letter}") for seed, letter in ((1, "a"), (2, "b")))
    return Pair(family=family, folders=folders)  # type: ignore[arg-type]


@cache
def published(family: str) -> Pair:
    """Two fine-tunes on the test Hub."""
    found = pair(family)
    for folder, repo_id in zip(found.folders, found.ids, strict=True):
        push(folder, repo_id)
    return found


def push(folder: Path, repo_id: str, *, private: bool = False) -> str:
    """Push a folder to the test Hub, and return the commit."""
    api = HfApi(token=TOKEN)
    api.create_repo(repo_id, exist_ok=True, private=private)
    return api.upload_folder(repo_id=repo_id, folder_path=folder).oid


def push_recipe(family: str, repo_id: str, **keys: Any) -> str:
    """Push a recipe repo of a family, written by hand: config.json and tokenizer, with the models pinned."""
    found = published(family)
    folder = root() / "recipes" / repo_id.replace("/", "--")
    FAMILIES[family][1]().save_pretrained(folder)
    api = HfApi(token=TOKEN)
    recipe = found.recipe
    for ingredient in recipe["ingredients"]:
        ingredient |= {"revision": api.repo_info(ingredient["model"]).sha, "requested": "main"}
    config = {"model_type": "cocktail", "architectures": [architecture(family)], "recipe": recipe, **keys}
    (folder / "config.json").write_text(json.dumps(config))
    push(folder, repo_id)
    return repo_id


def read_pushed(repo_id: str, path: str, **keywords: Any) -> Any:
    """A text file of a repo on the test Hub; JSON is parsed."""
    text = Path(hf_hub_download(repo_id, path, token=TOKEN, **keywords)).read_text(encoding="utf-8")
    return json.loads(text) if path.endswith(".json") else text


def pushed_files(repo_id: str) -> set[str]:
    """The files that someone has pushed to a repo on the test Hub."""
    return set(list_repo_files(repo_id, token=TOKEN)) - {".gitattributes"}


def architecture(family: str) -> str:
    """Class name of a family's models."""
    config = json.loads((pair(family).folders[0] / "config.json").read_text())
    return str(config["architectures"][0])


def weights_of(folder: Path, name: str = WEIGHTS) -> dict[str, torch.Tensor]:
    """The tensors of a folder's weight file."""
    return load_file(folder / name)


def average(
    folders: Sequence[Path], weights: Sequence[float] = SHARES, name: str = "model.safetensors"
) -> dict[str, Any]:
    """The linear mix of the weight files in folders, worked out by hand in float64."""
    files = [weights_of(folder, name) for folder in folders]
    return {
        key: sum(weight * file[key].double() for weight, file in zip(weights, files, strict=True)).to(
            files[0][key].dtype
        )
        for key in files[0]
    }


def expected(family: str) -> dict[str, torch.Tensor]:
    """What the mix of a family's pair holds."""
    return average(pair(family).folders)


def assert_holds(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Check that a model holds these very weights, bit for bit; tied ones count under one name."""
    state = model.state_dict()
    for name, tensor in tensors.items():
        assert torch.equal(state[name].cpu(), tensor), name


def small_llama() -> transformers.PreTrainedModel:
    """A Llama of 76 kB."""
    config = transformers.LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).bfloat16()
