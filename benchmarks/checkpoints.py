"""Synthetic checkpoints in the shapes of real models, written a few MB at a time."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARD_BYTES = 5_000_000_000
"""Size of the input files, as `save_pretrained` cuts them."""
CHUNK = 1 << 20
"""Elements made at a time."""
CODES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
DONE = "complete"
"""Empty file that marks a checkpoint as written to its end."""


def _llama(hidden: int, inner: int, layers: int, heads: tuple[int, int], vocab: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        vocab_size=vocab,
        bos_token_id=1,
        eos_token_id=2,
        architectures=["LlamaForCausalLM"],
    )


def _bert(hidden: int, inner: int, layers: int, heads: int, vocab: int) -> BertConfig:
    return BertConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=vocab,
        architectures=["BertModel"],
    )


CONFIGS: dict[str, PretrainedConfig] = {
    "tiny": _llama(64, 128, 2, (4, 4), 256),
    "0.1B": _llama(768, 2048, 12, (12, 12), 32000),
    "0.5B": _llama(1024, 4096, 24, (16, 16), 32000),
    "1B": _llama(2048, 5632, 22, (32, 4), 32000),  # TinyLlama
    "3B": _llama(3200, 8640, 26, (32, 32), 32000),  # OpenLLaMA 3B
    "7B": _llama(4096, 11008, 32, (32, 32), 32000),  # Llama 2
    "tiny-embedder": _bert(64, 128, 2, 4, 256),
    "embedder": _bert(768, 3072, 12, 12, 30522),  # BERT base
}
"""Name of a size -> configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is mixed: how many checkpoints of which size and type."""

    size: str
    """A key of `CONFIGS`."""
    count: int
    """Ingredients. >= 2. Methods that need a base read one checkpoint more."""
    dtype: str
    """A key of `CODES`."""

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read `SIZE:COUNT:DTYPE`. Raises ValueError."""
        size, count, dtype = text.split(":")
        if size not in CONFIGS or dtype not in CODES or int(count) < 2:
            raise ValueError(text)
        return cls(size=size, count=int(count), dtype=dtype)

    @property
    def embedder(self) -> bool:
        """Whether the models are sentence-transformers models."""
        return self.size.endswith("embedder")

    @property
    def parameters(self) -> int:
        """Parameters of one checkpoint."""
        return sum(math.prod(shape) for shape in shapes(self.size).values())

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors of one checkpoint."""
        return self.parameters * getattr(torch, self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.size}:{self.count}:{self.dtype}"


def shapes(size: str) -> dict[str, tuple[int, ...]]:
    """Return tensor -> shape of a size, as transformers builds the model; nothing is allocated."""
    config = CONFIGS[size]
    with torch.device("meta"):
        model = BertModel(config) if isinstance(config, BertConfig) else LlamaForCausalLM(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def make(folder: Path, case: Case, number: int) -> None:
    """Write checkpoint `number` of a case unless it is there: number 0 is the base that the others differ from."""
    if (folder / DONE).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = CONFIGS[case.size]
    config.dtype = case.dtype
    config.save_pretrained(folder)
    _write_tokenizer(folder, config.vocab_size)
    if case.embedder:
        _write_modules(folder)
    _write_weights(folder, case, _Values(number, getattr(torch, case.dtype)))
    (folder / DONE).touch()


class _Values:
    """An endless row of plausible weights: a base of deviation 0.02, and for each model differences of 0.002.

    Two pools of random numbers whose lengths have no common factor are read round and round and added.
    """

    def __init__(self, number: int, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._lengths = (4_194_301, 4_194_287)
        spreads = (0.02, 0.002 if number else 0.0)
        self._pools = [
            torch.randn(length + CHUNK, generator=torch.Generator().manual_seed(seed)) * spread
            for length, seed, spread in zip(self._lengths, (0, number), spreads, strict=True)
        ]
        self._position = 0

    def take(self, count: int) -> Iterator[memoryview]:
        """Yield the bytes of the next `count` values."""
        while count:
            length = min(count, CHUNK)
            starts = [self._position % full for full in self._lengths]
            base, change = (pool[start : start + length] for pool, start in zip(self._pools, starts, strict=True))
            yield (base + change).to(self._dtype).view(torch.uint8).numpy().data
            self._position += length
            count -= length


def _write_weights(folder: Path, case: Case, values: _Values) -> None:
    specs = shapes(case.size)
    itemsize = getattr(torch, case.dtype).itemsize
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    used = 0
    for name, shape in specs.items():
        nbytes = math.prod(shape) * itemsize
        if used + nbytes > SHARD_BYTES and shards[-1]:
            shards.append({})
            used = 0
        shards[-1][name] = shape
        used += nbytes
    single = len(shards) == 1
    files = (
        ["model.safetensors"]
        if single
        else [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    )
    for file, tensors in zip(files, shards, strict=True):
        _write_file(folder / file, tensors, case.dtype, values)
    if not single:
        weight_map = {name: file for file, tensors in zip(files, shards, strict=True) for name in tensors}
        index = {"metadata": {"total_size": case.nbytes}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _write_file(path: Path, tensors: dict[str, tuple[int, ...]], dtype: str, values: _Values) -> None:
    itemsize = getattr(torch, dtype).itemsize
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + math.prod(shape) * itemsize
        entries[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for shape in tensors.values():
            for data in values.take(math.prod(shape)):
                file.write(data)


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"word{i}": i for i in range(3, vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def _write_modules(folder: Path) -> None:
    """Make a folder one that sentence-transformers loads: mean pooling, then normalisation."""
    names = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(names.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "sentence_bert_config.json").write_text(
        '{"max_seq_length": 128, "do_lower_case": false}', encoding="utf-8"
    )
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    hidden = json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
