"""Tiny models of sentence-transformers, one of every layout, in folders and on the test Hub.

`pair(kind)` saves two that differ in their weights only; `expected(kind)` is the model with their average.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from models import ORG, SHARES, bert, fill, push, root, t5, text_tokenizer, words_tokenizer
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from sentence_transformers.sparse_encoder.modules import SpladePooling

if TYPE_CHECKING:
    from collections.abc import Callable

    import transformers

PROMPTS = {"query": "where is ", "document": "the "}
KINDS: dict[str, Any] = {
    "mean": SentenceTransformer,
    "cls": SentenceTransformer,
    "dense": SentenceTransformer,
    "old": SentenceTransformer,
    "t5": SentenceTransformer,
    "static": SentenceTransformer,
    "router": SentenceTransformer,
    "sparse": SparseEncoder,
    "cross": CrossEncoder,
    "cross-classes": CrossEncoder,
}
"""Name of a layout -> class that loads it."""


def transformer(model: transformers.PreTrainedModel, tokenizer: Any, folder: Path, **keywords: Any) -> Transformer:
    """A transformers model as a module of sentence-transformers."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Transformer(str(folder), **keywords)


def build(kind: str, folder: Path) -> torch.nn.Module:
    """A model of one layout; `folder` is for scratch."""
    return BUILDERS[kind](folder)


def _encoder(folder: Path, mode: str, *modules: torch.nn.Module, **keywords: Any) -> SentenceTransformer:
    body = transformer(bert(), words_tokenizer(), folder, max_seq_length=12)
    pooling = Pooling(body.get_embedding_dimension(), pooling_mode=mode)
    return SentenceTransformer(modules=[body, pooling, *modules], device="cpu", **keywords)


def _dense(folder: Path) -> SentenceTransformer:
    dense = Dense(16, 8, activation_function=torch.nn.Tanh())
    keywords = {"prompts": PROMPTS, "default_prompt_name": "query", "similarity_fn_name": "dot", "truncate_dim": 6}
    return _encoder(folder, "mean", dense, Normalize(), **keywords)


def _t5(folder: Path) -> SentenceTransformer:
    body = transformer(t5("T5EncoderModel"), text_tokenizer(), folder)
    return SentenceTransformer(modules=[body, Pooling(16, pooling_mode="mean")], device="cpu")


def _router(folder: Path) -> SentenceTransformer:
    query = transformer(bert(), words_tokenizer(), folder / "query")
    document = transformer(bert(), words_tokenizer(), folder / "document")
    router = Router.for_query_document(
        query_modules=[query, Pooling(16, pooling_mode="mean")],
        document_modules=[document, Pooling(16, pooling_mode="cls"), Dense(16, 16)],
    )
    return SentenceTransformer(modules=[router], device="cpu")


def _sparse(folder: Path) -> SparseEncoder:
    body = transformer(bert("BertForMaskedLM"), words_tokenizer(), folder, transformer_task="fill-mask")
    return SparseEncoder(modules=[body, SpladePooling(pooling_strategy="max")], device="cpu")


def _cross(folder: Path, labels: int, activation: torch.nn.Module) -> CrossEncoder:
    body = bert("BertForSequenceClassification", num_labels=labels)
    body.save_pretrained(folder)
    words_tokenizer().save_pretrained(folder)
    return CrossEncoder(str(folder), activation_fn=activation, device="cpu")


BUILDERS: dict[str, Callable[[Path], Any]] = {
    "mean": lambda folder: _encoder(folder, "mean"),
    "cls": lambda folder: _encoder(folder, "cls", Normalize()),
    "dense": _dense,
    "old": lambda folder: _encoder(folder, "max", similarity_fn_name="euclidean"),
    "t5": _t5,
    "static": lambda _: SentenceTransformer(
        modules=[StaticEmbedding(words_tokenizer().backend_tokenizer, embedding_dim=8)], device="cpu"
    ),
    "router": _router,
    "sparse": _sparse,
    "cross": lambda folder: _cross(folder, 1, torch.nn.Tanh()),
    "cross-classes": lambda folder: _cross(folder, 3, torch.nn.Identity()),
}


@cache
def pair(kind: str) -> tuple[Path, Path]:
    """Two models in folders."""
    return _save(kind, 1), _save(kind, 2)


def _save(kind: str, seed: int) -> Path:
    folder = root() / "embedders" / f"{kind}-{seed}"
    model = fill(build(kind, folder.with_name(f"{folder.name}-parts")), seed)
    model.save_pretrained(str(folder), create_model_card=False)
    if kind == "old":
        _age(folder)
    return folder


def _age(folder: Path) -> None:
    """Put the transformer into a folder of its own, as sentence-transformers did before 2022."""
    (folder / "0_Transformer").mkdir()
    kept = ("modules.json", "config_sentence_transformers.json", "README.md", "1_Pooling", "0_Transformer")
    for path in list(folder.iterdir()):
        if path.name not in kept:
            shutil.move(path, folder / "0_Transformer" / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))


@cache
def published(kind: str) -> tuple[str, str]:
    """The two models on the test Hub."""
    ids = (f"{ORG}/embedder-{kind}-a", f"{ORG}/embedder-{kind}-b")
    for folder, repo_id in zip(pair(kind), ids, strict=True):
        push(folder, repo_id)
    return ids


def recipe(kind: str) -> dict[str, Any]:
    """Three quarters of the first, one quarter of the second."""
    return {"ingredients": [{"model": m, "weight": w} for m, w in zip(published(kind), SHARES, strict=True)]}


@cache
def expected(kind: str) -> Any:
    """The first model with the average of both models' weights, worked out by hand in float64."""
    first, second = (KINDS[kind](str(folder), device="cpu") for folder in pair(kind))
    mine, theirs = first.state_dict(), second.state_dict()
    mixed = {  # all of them before any is written: tied tensors stand in it twice
        name: (SHARES[0] * tensor.double() + SHARES[1] * theirs[name].double()).to(tensor.dtype)
        for name, tensor in mine.items()
        if tensor.is_floating_point()
    }
    first.load_state_dict({**mine, **mixed})
    return first
