"""Checkpoints of hundreds of billions of parameters that take a few MB: real configs and headers, holes for weights.

    python benchmarks/synthetic_headers.py FOLDER --model llama-405b

writes four ingredients and a recipe, runs `cocktail check` on it in a process of its own, and prints how long the
answer took and what the planner says. The files are sparse: the file system must know holes (ext4, xfs, btrfs, APFS).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocktail_hub.checkpoint.header import TensorSpec, render_header

SHARD_BYTES = 5_000_000_000
"""Size of the input files, as `save_pretrained` cuts them."""
Tensors = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, kw_only=True)
class Llama:
    """Shapes of a Llama with grouped queries."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int

    @property
    def config(self) -> dict[str, Any]:
        """What stands in config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocab,
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        }

    def tensors(self) -> Tensors:
        """Every tensor in the order of the files."""
        kv = self.hidden // self.heads * self.kv_heads
        yield "model.embed_tokens.weight", (self.vocab, self.hidden)
        for layer in (f"model.layers.{number}" for number in range(self.layers)):
            yield f"{layer}.input_layernorm.weight", (self.hidden,)
            yield f"{layer}.mlp.down_proj.weight", (self.hidden, self.inner)
            yield f"{layer}.mlp.gate_proj.weight", (self.inner, self.hidden)
            yield f"{layer}.mlp.up_proj.weight", (self.inner, self.hidden)
            yield f"{layer}.post_attention_layernorm.weight", (self.hidden,)
            yield f"{layer}.self_attn.k_proj.weight", (kv, self.hidden)
            yield f"{layer}.self_attn.o_proj.weight", (self.hidden, self.hidden)
            yield f"{layer}.self_attn.q_proj.weight", (self.hidden, self.hidden)
            yield f"{layer}.self_attn.v_proj.weight", (kv, self.hidden)
        yield "model.norm.weight", (self.hidden,)
        yield "lm_head.weight", (self.vocab, self.hidden)


@dataclass(frozen=True, kw_only=True)
class DeepSeek:
    """Shapes of DeepSeek-V3 in bfloat16, without the layer for predicting several tokens."""

    hidden: int
    inner: int
    expert: int
    experts: int
    layers: int
    dense: int
    heads: int
    vocab: int
    q_rank: int
    kv_rank: int
    nope: int
    rope: int
    value: int

    @property
    def config(self) -> dict[str, Any]:
        """What stands in config.json."""
        return {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "moe_intermediate_size": self.expert,
            "n_routed_experts": self.experts,
            "n_shared_experts": 1,
            "num_hidden_layers": self.layers,
            "first_k_dense_replace": self.dense,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "q_lora_rank": self.q_rank,
            "kv_lora_rank": self.kv_rank,
            "qk_nope_head_dim": self.nope,
            "qk_rope_head_dim": self.rope,
            "v_head_dim": self.value,
            "vocab_size": self.vocab,
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        }

    def tensors(self) -> Tensors:
        """Every tensor in the order of the files."""
        yield "model.embed_tokens.weight", (self.vocab, self.hidden)
        for number in range(self.layers):
            layer = f"model.layers.{number}"
            yield from self._attention(f"{layer}.self_attn")
            if number < self.dense:
                yield from self._mlp(f"{layer}.mlp", self.inner)
            else:
                yield f"{layer}.mlp.gate.weight", (self.experts, self.hidden)
                yield f"{layer}.mlp.gate.e_score_correction_bias", (self.experts,)
                yield from self._mlp(f"{layer}.mlp.shared_experts", self.expert)
                for expert in range(self.experts):
                    yield from self._mlp(f"{layer}.mlp.experts.{expert}", self.expert)
            yield f"{layer}.input_layernorm.weight", (self.hidden,)
            yield f"{layer}.post_attention_layernorm.weight", (self.hidden,)
        yield "model.norm.weight", (self.hidden,)
        yield "lm_head.weight", (self.vocab, self.hidden)

    def _attention(self, name: str) -> Tensors:
        yield f"{name}.q_a_proj.weight", (self.q_rank, self.hidden)
        yield f"{name}.q_a_layernorm.weight", (self.q_rank,)
        yield f"{name}.q_b_proj.weight", (self.heads * (self.nope + self.rope), self.q_rank)
        yield f"{name}.kv_a_proj_with_mqa.weight", (self.kv_rank + self.rope, self.hidden)
        yield f"{name}.kv_a_layernorm.weight", (self.kv_rank,)
        yield f"{name}.kv_b_proj.weight", (self.heads * (self.nope + self.value), self.kv_rank)
        yield f"{name}.o_proj.weight", (self.hidden, self.heads * self.value)

    def _mlp(self, name: str, inner: int) -> Tensors:
        yield f"{name}.gate_proj.weight", (inner, self.hidden)
        yield f"{name}.up_proj.weight", (inner, self.hidden)
        yield f"{name}.down_proj.weight", (self.hidden, inner)


MODELS = {
    "llama-tiny": Llama(hidden=64, inner=128, layers=4, heads=4, kv_heads=2, vocab=256),
    "llama-8b": Llama(hidden=4096, inner=14336, layers=32, heads=32, kv_heads=8, vocab=128256),
    "llama-70b": Llama(hidden=8192, inner=28672, layers=80, heads=64, kv_heads=8, vocab=128256),
    "llama-405b": Llama(hidden=16384, inner=53248, layers=126, heads=128, kv_heads=8, vocab=128256),
    "deepseek-671b": DeepSeek(
        hidden=7168,
        inner=18432,
        expert=2048,
        experts=256,
        layers=61,
        dense=3,
        heads=128,
        vocab=129280,
        q_rank=1536,
        kv_rank=512,
        nope=128,
        rope=64,
        value=128,
    ),
}


def write(folder: Path, model: str, *, shard_bytes: int = SHARD_BYTES) -> int:
    """Write one checkpoint without weights, and return its number of parameters."""
    shapes = MODELS[model]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shapes.config, indent=2))
    shards: list[dict[str, TensorSpec]] = [{}]
    filled = 0
    for name, shape in shapes.tensors():
        spec = TensorSpec(shape, "F32" if name.endswith("bias") else "BF16")
        if filled and filled + spec.nbytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = spec
        filled += spec.nbytes
    weight_map: dict[str, str] = {}
    for number, specs in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_sparse(folder / name, specs)
        weight_map |= dict.fromkeys(specs, name)
    total = sum(spec.nbytes for specs in shards for spec in specs.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(spec.numel for specs in shards for spec in specs.values())


def _write_sparse(path: Path, specs: dict[str, TensorSpec]) -> None:
    header = render_header(specs, {"format": "pt"})
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(spec.nbytes for spec in specs.values()))


def write_recipe(folder: Path, model: str, count: int, *, shard_bytes: int = SHARD_BYTES) -> tuple[Path, int]:
    """Write `count` ingredients and a recipe of equal weights; returns its path and the parameters of one model."""
    parameters = 0
    lines = ["schema: 1", "ingredients:"]
    for number in range(count):
        parameters = write(folder / f"{model}-{number}", model, shard_bytes=shard_bytes)
        lines.append(f"  - {{model: ./{model}-{number}, weight: {1 / count}}}")
    recipe = folder / f"{model}.yaml"
    recipe.write_text("\n".join(lines) + "\n")
    return recipe, parameters


def measure(recipe: Path) -> dict[str, Any]:
    """Run `cocktail check --json`, and return seconds, and the planner's numbers."""
    started = time.monotonic()
    command = [sys.executable, "-m", "cocktail_hub.cli", "check", str(recipe), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    keys = ("tensors", "output_bytes", "input_bytes", "largest_file", "largest_input", "peak_memory", "peak_disk")
    return {"seconds": round(time.monotonic() - started, 2), "files": len(found["files"])} | {k: found[k] for k in keys}


def main() -> None:
    """Write, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=MODELS, action="append", help="Default: the two largest.")
    parser.add_argument("--ingredients", type=int, default=4)
    given = parser.parse_args()
    for model in given.model or ("llama-405b", "deepseek-671b"):
        recipe, parameters = write_recipe(given.folder, model, given.ingredients)
        measured = measure(recipe)
        print(json.dumps({"model": model, "ingredients": given.ingredients, "parameters": parameters} | measured))


if __name__ == "__main__":
    main()
