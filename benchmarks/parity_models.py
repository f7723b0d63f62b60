"""Tiny random models of every kind, to compare mixes on, and float32 copies of others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models

CLASS_OF_KIND = {
    "decoder": "AutoModelForCausalLM",
    "encoder": "AutoModel",
    "reranker": "AutoModelForSequenceClassification",
    "encoder-decoder": "AutoModelForSeq2SeqLM",
}
"""The original's `model_type` -> the class that it loads with."""
ANSWERS = [
    {"input": "Question: when was the last time anyone was on the moon? Answer:\n", "output": "14 December 1972"},
    {"input": "Question: Who wrote Hamlet? Answer:", "output": "William Shakespeare"},
    {
        "input": 'Review: "a charming and often affecting journey." Is this review negative or positive?\n',
        "output": "Positive",
    },
]
PASSAGES = [
    {
        "query": "pod keeps crashing",
        "pos": ["CrashLoopBackOff"],
        "neg": ["a recipe for pasta", "ImagePullBackOff", "the bank of the river"],
    },
    {"query": "the disk is full", "pos": ["No space left on device"], "neg": ["OOMKilled", "a blue sky", "snow"]},
    {"query": "how do I become an actor?", "pos": ["ways into acting"], "neg": ["stories of actors", "tea", "a cat"]},
]
EXAMPLES = {"decoder": ANSWERS, "encoder": PASSAGES, "reranker": PASSAGES, "encoder-decoder": ANSWERS}
"""Built-in examples. Every encoder's example has three negatives, and three are used, so that none is drawn."""
SIZES: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "intermediate_size": 128}


def make_tiny(root: Path) -> dict[str, list[Path]]:
    """Three random models of each kind, and a bfloat16 pair: name -> folders."""
    makers = {
        "decoder": (_llama, _byte_tokenizer),
        "encoder": (lambda words: transformers.BertModel(_bert(words)), _word_tokenizer),
        "reranker": (
            lambda words: transformers.BertForSequenceClassification(_bert(words, num_labels=1)),
            _word_tokenizer,
        ),
        "encoder-decoder": (_t5, _t5_tokenizer),
    }
    found = {}
    for kind, (make, tokenizer) in makers.items():
        found[kind] = [_save(make, tokenizer(), seed, root / f"{kind}-{seed}") for seed in range(3)]
    found["decoder-bf16"] = [
        _save(lambda words: _llama(words).bfloat16(), _byte_tokenizer(), seed, root / f"bf16-{seed}")
        for seed in range(3)
    ]
    found["decoder-unpadded"] = [
        _save(_llama, _byte_tokenizer(pad=False), seed, root / f"unpadded-{seed}") for seed in range(2)
    ]
    return found


def _save(make: Any, tokenizer: Any, seed: int, folder: Path) -> Path:
    torch.manual_seed(seed)
    make(len(tokenizer)).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _llama(words: int) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=words, max_position_embeddings=256, num_key_value_heads=4, initializer_range=0.2, **SIZES
    )
    return transformers.LlamaForCausalLM(config)


def _bert(words: int, **fields: Any) -> Any:
    return transformers.BertConfig(
        vocab_size=words, max_position_embeddings=64, initializer_range=0.2, **SIZES, **fields
    )


def _t5(words: int) -> Any:
    config = transformers.T5Config(
        vocab_size=words, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def _corpus() -> list[str]:
    texts = [text for row in ANSWERS for text in row.values()]
    return texts + [text for row in PASSAGES for text in (str(row["query"]), *row["pos"], *row["neg"])]


def _byte_tokenizer(*, pad: bool = True) -> Any:
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>" if pad else None
    )


def _words(special: list[str], unknown: str) -> Tokenizer:
    tokenizer = Tokenizer(tokenizer_models.WordLevel(unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(_corpus(), trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    return tokenizer


def _word_tokenizer() -> Any:
    tokenizer = _words(["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "[UNK]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "token_type_ids", "attention_mask"], **names
    )


def _t5_tokenizer() -> Any:
    tokenizer = _words(["<pad>", "</s>", "<unk>"], "<unk>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def state_of(folder: Path, kind: str, dtype: Any = "auto") -> dict[str, torch.Tensor]:
    """The tensors of a model as transformers loads it."""
    loaded = getattr(transformers, CLASS_OF_KIND[kind]).from_pretrained(folder, dtype=dtype)
    return dict(loaded.state_dict())


def in_float32(folder: Path, kind: str, target: Path) -> Path:
    """The folder itself if its weights are float32, else a copy with float32 weights."""
    model = getattr(transformers, CLASS_OF_KIND[kind]).from_pretrained(folder, dtype="auto")
    if model.dtype == torch.float32:
        return folder
    if not target.is_dir():
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors*", "*.bin*"))
        model.float().save_pretrained(target)
    return target
