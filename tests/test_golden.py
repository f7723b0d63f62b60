"""The bytes of mixes of every kind, held against golden.json.

COCKTAIL_RECORD_GOLDEN=1 pytest tests/test_golden.py writes that file anew. Do that only where the bytes are meant to
change: a recipe is a promise that the same mix comes out of it.

Ingredients are made here from whole numbers alone, under names and shapes that are written out, so that no version of
torch or transformers has a part in them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from huggingface_hub import snapshot_download
from models import ORG, TOKEN, push
from safetensors.torch import save_file

from cocktail_hub import MixOptions, mix, publish

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.testing import LoopbackHub

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("made_up_models")]

GOLDEN = Path(__file__).with_name("golden.json")
RECORDING = os.environ.get("COCKTAIL_RECORD_GOLDEN") == "1"
Shapes = dict[str, tuple[int, ...]]
Tensors = dict[str, torch.Tensor]


# -- numbers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Float:
    """How a type of floating-point numbers is laid out in bits."""

    unsigned: type[np.unsignedinteger[Any]]
    """Numbers of the same size."""
    exponent: int
    """Bits of the exponent."""
    mantissa: int
    """Bits after the point."""

    @property
    def one(self) -> int:
        """The bits of 1.0."""
        return ((1 << self.exponent - 1) - 1) << self.mantissa

    @property
    def infinity(self) -> int:
        """The bits of infinity."""
        return ((1 << self.exponent) - 1) << self.mantissa

    @property
    def special(self) -> list[int]:
        """Zeros, denormals, the smallest normal number, ones, and a value between two of the next narrower type."""
        sign, ulp = 1 << self.exponent + self.mantissa, 1 << self.mantissa
        above = [0, 1, ulp - 1, ulp, self.one, self.one + ulp // 2 + 1, self.one - 1]
        return [sign | bits for sign in (0, sign) for bits in above]

    @property
    def not_finite(self) -> list[int]:
        """Infinity and its opposite, a quiet NaN, and one with a sign and a payload."""
        sign, quiet = 1 << self.exponent + self.mantissa, self.infinity | 1 << self.mantissa - 1
        return [self.infinity, sign | self.infinity, quiet, sign | quiet | 5]


FLOATS = {
    "float64": Float(np.uint64, 11, 52),
    "float32": Float(np.uint32, 8, 23),
    "float16": Float(np.uint16, 5, 10),
    "bfloat16": Float(np.uint16, 8, 7),
}


def raw(seed: int, name: str, count: int) -> np.ndarray:
    """Random 64-bit numbers, the same in every version of numpy."""
    key = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:16], "little")
    return np.random.Philox(key=key).random_raw(count)


def finite(kind: Float, drawn: np.ndarray, *, coarse: bool) -> np.ndarray:
    """The bits of numbers of magnitude 1/256 to 1, some special ones among them; `coarse`: of eight magnitudes only."""
    octave, mantissa = drawn >> 60 & 7, drawn & (1 << kind.mantissa) - 1
    if coarse:
        octave, mantissa = octave & 1, mantissa & 3 << kind.mantissa - 2
    bits = (drawn >> 63 << kind.exponent + kind.mantissa) | kind.one - (octave + 1 << kind.mantissa) + mantissa
    special = drawn >> 52 & 255
    chosen = special < len(kind.special)
    bits[chosen] = np.array(kind.special, np.uint64)[special[chosen]]
    return bits


def numbers(
    seed: int, name: str, shape: Sequence[int], dtype: str, *, coarse: bool = False, odd: bool = False
) -> torch.Tensor:
    """A tensor that a seed and a name decide.

    A quarter of its elements are those of every other seed. So are the first ones, which are special: together with
    `odd`, infinite or not a number.
    """
    kind, count = FLOATS[dtype], math.prod(shape)
    drawn, shared = raw(seed, name, count), raw(0, name, count)
    bits = finite(kind, np.where(shared >> 56 & 3, drawn, shared), coarse=coarse)
    first = kind.special + (kind.not_finite if odd else [])
    if count > 2 * len(first):
        bits[: len(first)] = np.array(first, np.uint64)
    return torch.from_numpy(bits.astype(kind.unsigned)).view(getattr(torch, dtype)).reshape(tuple(shape))


# -- ingredients -------------------------------------------------------------------------------------------------------


def layers(count: int, prefix: str, shapes: Shapes) -> Shapes:
    """The same tensors in each layer."""
    return {f"{prefix}.{layer}.{name}": shape for layer in range(count) for name, shape in shapes.items()}


def linear(name: str, rows: int, columns: int) -> Shapes:
    """A matrix and its bias."""
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name: str, size: int = 16) -> Shapes:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def attention(name: str, kind: str) -> Shapes:
    return {f"{name}.{kind}.{part}.weight": (16, 16) for part in "qkvo"} | {f"{name}.layer_norm.weight": (16,)}


def t5_stack(*attentions: str) -> Shapes:
    """The encoder or the decoder of a T5 of two layers."""
    found: Shapes = {"final_layer_norm.weight": (16,)}
    for block in ("block.0", "block.1"):
        for number, kind in enumerate(attentions):
            found |= attention(f"{block}.layer.{number}", kind)
        last = f"{block}.layer.{len(attentions)}"
        found |= {f"{last}.DenseReluDense.wi.weight": (32, 16), f"{last}.DenseReluDense.wo.weight": (16, 32)}
        found |= {f"{last}.layer_norm.weight": (16,)}
    return found | {"block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 2)}


def llama(vocabulary: int, hidden: int, inner: int) -> Shapes:
    """A Llama of one layer without the head."""
    layer: Shapes = {
        "self_attn.q_proj.weight": (hidden, hidden),
        "self_attn.k_proj.weight": (hidden // 2, hidden),
        "self_attn.v_proj.weight": (hidden // 2, hidden),
        "self_attn.o_proj.weight": (hidden, hidden),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    ends = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    return ends | layers(1, "model.layers", layer)


def experts(*, fused: bool) -> Shapes:
    """The experts of a Qwen2-MoE."""
    if fused:
        return {"experts.gate_up_proj": (4, 16, 16), "experts.down_proj": (4, 16, 8)}
    one = {"gate_proj.weight": (8, 16), "up_proj.weight": (8, 16), "down_proj.weight": (16, 8)}
    return layers(4, "experts", one)


def qwen2_moe(*, fused: bool) -> Shapes:
    """A Qwen2-MoE of one layer."""
    layer: Shapes = {
        **linear("self_attn.q_proj", 16, 16),
        **linear("self_attn.k_proj", 8, 16),
        **linear("self_attn.v_proj", 8, 16),
        "self_attn.o_proj.weight": (16, 16),
        "mlp.gate.weight": (4, 16),
        "mlp.shared_expert.gate_proj.weight": (8, 16),
        "mlp.shared_expert.up_proj.weight": (8, 16),
        "mlp.shared_expert.down_proj.weight": (16, 8),
        "mlp.shared_expert_gate.weight": (1, 16),
        "input_layernorm.weight": (16,),
        "post_attention_layernorm.weight": (16,),
        **{f"mlp.{name}": shape for name, shape in experts(fused=fused).items()},
    }
    ends = {"model.embed_tokens.weight": (32, 16), "model.norm.weight": (16,), "lm_head.weight": (32, 16)}
    return ends | layers(1, "model.layers", layer)


BERT: Shapes = {
    "embeddings.word_embeddings.weight": (32, 16),
    "embeddings.position_embeddings.weight": (16, 16),
    "embeddings.token_type_embeddings.weight": (2, 16),
    **norm("embeddings.LayerNorm"),
    **layers(
        2,
        "encoder.layer",
        {
            **linear("attention.self.query", 16, 16),
            **linear("attention.self.key", 16, 16),
            **linear("attention.self.value", 16, 16),
            **linear("attention.output.dense", 16, 16),
            **norm("attention.output.LayerNorm"),
            **linear("intermediate.dense", 32, 16),
            **linear("output.dense", 16, 32),
            **norm("output.LayerNorm"),
        },
    ),
    **linear("pooler.dense", 16, 16),
}
GPT2: Shapes = {
    "transformer.wte.weight": (32, 16),
    "transformer.wpe.weight": (16, 16),
    **norm("transformer.ln_f"),
    **layers(
        1,
        "transformer.h",
        {
            **norm("ln_1"),
            **norm("ln_2"),
            "attn.c_attn.weight": (16, 48),
            "attn.c_attn.bias": (48,),
            "attn.c_proj.weight": (16, 16),
            "attn.c_proj.bias": (16,),
            "mlp.c_fc.weight": (16, 64),
            "mlp.c_fc.bias": (64,),
            "mlp.c_proj.weight": (64, 16),
            "mlp.c_proj.bias": (16,),
        },
    ),
}
LARGE: Shapes = {"embeddings": (605, 1000), "norm": (7,)}  # more than one stretch of every method
PLAIN: Shapes = {
    "embeddings": (210, 200),
    "scale": (),
    "nothing": (0, 4),
    **layers(2, "layer", {"dense": (33, 65), "norm": (7,)}),
}
TEXT = {"hidden_size": 16, "num_attention_heads": 2, "vocab_size": 32, "pad_token_id": 0}
SPECIAL_TOKENS = {"bos_token_id": 1, "eos_token_id": 2}
BERT_CONFIG = TEXT | {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "num_hidden_layers": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}
LLAMA_CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    **SPECIAL_TOKENS,
}
MOE_CONFIG = TEXT | {
    "model_type": "qwen2_moe",
    "architectures": ["Qwen2MoeForCausalLM"],
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
    **SPECIAL_TOKENS,
}
T5_CONFIG = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "vocab_size": 32,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": True,
}
GPT2_CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 32,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 16,
    "tie_word_embeddings": True,
    **SPECIAL_TOKENS,
}
T5: Shapes = {
    "shared.weight": (32, 16),
    **{f"encoder.{name}": shape for name, shape in t5_stack("SelfAttention").items()},
    **{f"decoder.{name}": shape for name, shape in t5_stack("SelfAttention", "EncDecAttention").items()},
}
SMALL_LLAMA = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 40}
LLAMA = {"hidden_size": 256, "intermediate_size": 640, "vocab_size": 1100}  # an adapter's rows come in several steps
FAMILIES: dict[str, tuple[Mapping[str, Any], Shapes]] = {
    "plain": (BERT_CONFIG, PLAIN),
    "large": (BERT_CONFIG, LARGE),
    "bert": (BERT_CONFIG, BERT),
    "bert without pooler": (BERT_CONFIG, {name: shape for name, shape in BERT.items() if "pooler" not in name}),
    "gpt2": (GPT2_CONFIG, GPT2),
    "llama": (
        {**LLAMA_CONFIG, **LLAMA, "tie_word_embeddings": False},
        {**llama(1100, 256, 640), "lm_head.weight": (1100, 256)},
    ),
    "tied llama": ({**LLAMA_CONFIG, **SMALL_LLAMA, "tie_word_embeddings": True}, llama(40, 16, 24)),
    "t5": (T5_CONFIG, T5),
    "experts one by one": (MOE_CONFIG, qwen2_moe(fused=False)),
    "fused experts": (MOE_CONFIG, qwen2_moe(fused=True)),
}
"""Name -> config.json, and the tensors."""
COPIES = {
    "tied llama": {"lm_head.weight": "model.embed_tokens.weight"},
    "t5": {f"{name}.weight": "shared.weight" for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head")},
}
"""Family -> second name of a tied tensor -> its first one."""
MODULES = [
    ("", "sentence_transformers.models.Transformer"),
    ("1_Pooling", "sentence_transformers.models.Pooling"),
    ("2_Dense", "sentence_transformers.models.Dense"),
]
DENSE: Shapes = linear("linear", 8, 16)
DENSE_CONFIG = {"in_features": 16, "out_features": 8, "bias": True, "activation_function": "torch.nn.Tanh"}


def legacy(name: str) -> str:
    """The name of a tensor of BERT before 2019, in a model that was trained on several cards."""
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return f"module.{old}"


FORMS = {"prefixed": lambda name: f"bert.{name}", "legacy": legacy}
"""How an ingredient may be stored -> what its tensors are called then."""


@dataclass(frozen=True)
class Model:
    """A whole model. What it holds depends on family, seed and dtype, not on how it is stored."""

    family: str
    """Key of `FAMILIES`."""
    seed: int
    """Tells it from others of the family."""
    dtype: str = "float32"
    """Of its floating-point numbers."""
    form: str = ""
    """Key of `FORMS`; or `pickled`, `sharded`, `embedder`, `coarse`, `odd`, `counting`, or `twice` (tied tensors)."""

    def tensors(self) -> Tensors:
        """Everything that it holds."""
        keywords = {"coarse": self.form == "coarse", "odd": self.form == "odd"}
        found = {
            name: numbers(self.seed, name, shape, self.dtype, **keywords)
            for name, shape in FAMILIES[self.family][1].items()
        }
        if self.form == "counting":
            found |= {"position_ids": torch.arange(12).reshape(1, 12), "mask": torch.tensor([True, False, True])}
            found |= {
                "bytes": torch.arange(256, dtype=torch.uint8),
                "norm.num_batches_tracked": torch.tensor(self.seed),
            }
        if self.form in ("twice", "pickled"):
            found |= {name: found[first].clone() for name, first in COPIES.get(self.family, {}).items()}
        rename = FORMS.get(self.form, str)
        return {rename(name): tensor for name, tensor in found.items()}

    def save(self, shelf: Shelf, folder: Path) -> None:
        """Write its files."""
        write_json(folder / "config.json", {**FAMILIES[self.family][0], "dtype": self.dtype})
        tensors = self.tensors()
        if self.form == "pickled":
            torch.save(tensors, folder / "pytorch_model.bin")
        elif self.form == "sharded":
            save_shards(folder, tensors, 3 + self.seed)
        else:
            save(folder / "model.safetensors", tensors)
        if self.form == "embedder":
            save_modules(folder, self.seed, self.dtype)


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter as PEFT saves it."""

    base: Model
    """What it adapts."""
    seed: int
    """Tells it from others."""
    modules: Mapping[str, tuple[int, int]] = field(hash=False)
    """Module of the base -> its outputs and inputs."""
    options: Mapping[str, Any] = field(hash=False)
    """Of adapter_config.json: `r`, `lora_alpha`, `use_dora` and so on."""
    dtype: str = "float32"
    """Of its factors."""
    whole: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    """Tensors that it brings in place of the base's."""
    with_modules: bool = False
    """Whether it has a Dense module of its own."""

    def shapes(self) -> Shapes:
        """Every tensor, without PEFT's prefix."""
        found = dict(self.whole)
        for module, (rows, columns) in self.modules.items():
            rank = self.options.get("rank_pattern", {}).get(module.rpartition(".")[2], self.options["r"])
            if "embed" in module:
                found |= {f"{module}.lora_embedding_A": (rank, columns), f"{module}.lora_embedding_B": (rows, rank)}
            else:
                found |= {f"{module}.lora_A.weight": (rank, columns), f"{module}.lora_B.weight": (rows, rank)}
            if self.options.get("use_dora"):
                found[f"{module}.lora_magnitude_vector"] = (rows,)
            if self.options.get("lora_bias"):
                found[f"{module}.lora_B.bias"] = (rows,)
        return found

    def save(self, shelf: Shelf, folder: Path) -> None:
        """Write its files."""
        tensors = {name: numbers(self.seed, name, shape, self.dtype) for name, shape in self.shapes().items()}
        save(folder / "adapter_model.safetensors", {f"base_model.model.{name}": t for name, t in tensors.items()})
        targets = sorted({module.rpartition(".")[2] for module in self.modules})
        config = {"peft_type": "LORA", "target_modules": targets, **self.options}
        write_json(folder / "adapter_config.json", config)
        if self.with_modules:
            save_modules(folder, self.seed, self.dtype)


@dataclass(frozen=True)
class Inner:
    """A recipe as an ingredient."""

    recipe: Mapping[str, Any] = field(hash=False)
    """What it mixes."""

    def save(self, shelf: Shelf, folder: Path) -> None:
        """Write its files."""
        write_json(folder / "config.json", {"model_type": "cocktail", "recipe": shelf.written(self.recipe)})


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1))


def save(path: Path, tensors: Tensors) -> None:
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt"})


def save_shards(folder: Path, tensors: Tensors, count: int) -> None:
    """Deal the tensors out to several files."""
    places = {name: f"model-{number % count + 1:05}-of-{count:05}.safetensors" for number, name in enumerate(tensors)}
    for place in set(places.values()):
        save(folder / place, {name: tensor for name, tensor in tensors.items() if places[name] == place})
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def save_modules(folder: Path, seed: int, dtype: str) -> None:
    """Make a folder an embedder with pooling and a Dense module."""
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(MODULES)]
    write_json(folder / "modules.json", modules)
    save(folder / "2_Dense" / "model.safetensors", {n: numbers(seed, n, shape, dtype) for n, shape in DENSE.items()})
    write_json(folder / "2_Dense" / "config.json", DENSE_CONFIG)
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)


class Shelf:
    """Ingredients in folders, each made when a mix first asks for it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[Any, Path] = {}

    def folder(self, ingredient: Model | Adapter | Inner) -> str:
        """Where it lies."""
        if ingredient not in self._folders:
            place = self._root / f"i{len(self._folders)}"
            self._folders[ingredient] = place  # before what an adapter or a recipe needs, which has a place of its own
            place.mkdir()
            ingredient.save(self, place)
        return str(self._folders[ingredient])

    def on_hub(self, ingredient: Model | Adapter | Inner) -> str:
        """The same in a repo of the test Hub."""
        folder = Path(self.folder(ingredient))
        push(folder, f"{ORG}/golden-{folder.name}")
        return f"{ORG}/golden-{folder.name}"

    def written(self, recipe: Any, *, on_hub: bool = False) -> Any:
        """A recipe with folders, or repos, in place of ingredients."""
        if isinstance(recipe, (Model, Adapter, Inner)):
            return self.on_hub(recipe) if on_hub else self.folder(recipe)
        if isinstance(recipe, dict):
            return {key: self.written(value, on_hub=on_hub) for key, value in recipe.items()}
        if isinstance(recipe, list):
            return [self.written(value, on_hub=on_hub) for value in recipe]
        return recipe


# -- mixes -------------------------------------------------------------------------------------------------------------


def recipe(*parts: tuple[Any, float], **keys: Any) -> dict[str, Any]:
    """Ingredients with their weights, adapters with the model that they adapt."""
    entries = [
        {"model": model, "weight": weight} | ({"base": model.base} if isinstance(model, Adapter) else {})
        for model, weight in parts
    ]
    return {"ingredients": entries, **keys}


def plain(seed: int, dtype: str = "float32", form: str = "") -> Model:
    return Model("plain", seed, dtype, form)


def thirds(dtype: str) -> dict[str, Any]:
    return recipe((plain(1, dtype), 0.2), (plain(2, dtype), 0.3), (plain(3, dtype), 0.5))


def ties(*parts: tuple[Any, float], base: Any, **keys: Any) -> dict[str, Any]:
    """`density` and `lambda` (as `lam`) are parameters, other keys are the recipe's."""
    parameters = {name: keys.pop(key) for key, name in (("density", "density"), ("lam", "lambda")) if key in keys}
    return recipe(*parts, method="ties", base=base, parameters=parameters, **keys)


def arithmetic(*parts: tuple[Any, float], base: Any, lam: float, **keys: Any) -> dict[str, Any]:
    return recipe(*parts, method="task_arithmetic", base=base, parameters={"lambda": lam}, **keys)


def full(seed: int, dtype: str = "float32") -> Model:
    return Model("llama", seed, dtype)


ATTENTION = "model.layers.0.self_attn"
MLP = "model.layers.0.mlp"


def lora(seed: int, dtype: str = "float32", factors: str = "float32") -> Adapter:
    """Of two ranks, with a norm that was trained whole."""
    modules = {f"{ATTENTION}.q_proj": (256, 256), f"{MLP}.down_proj": (256, 640)}
    options = {"r": 4, "lora_alpha": 7, "rank_pattern": {"down_proj": 6}, "alpha_pattern": {"q_proj": 5}}
    return Adapter(full(0, dtype), seed, modules, options, factors, {"model.norm.weight": (256,)})


def rslora(seed: int, dtype: str, factors: str) -> Adapter:
    modules = {f"{ATTENTION}.v_proj": (128, 256), f"{MLP}.up_proj": (640, 256)}
    return Adapter(full(0, dtype), seed, modules, {"r": 3, "lora_alpha": 4, "use_rslora": True}, factors)


def dora(seed: int, dtype: str = "float32", factors: str = "float32") -> Adapter:
    modules = {f"{ATTENTION}.q_proj": (256, 256), f"{MLP}.down_proj": (256, 640)}
    return Adapter(full(0, dtype), seed, modules, {"r": 3, "lora_alpha": 6, "use_dora": True}, factors)


def dora_of_embeddings(seed: int, dtype: str) -> Adapter:
    modules = {"model.embed_tokens": (256, 1100), f"{MLP}.gate_proj": (640, 256)}
    return Adapter(full(0, dtype), seed, modules, {"r": 2, "lora_alpha": 4, "use_dora": True})


def turned(seed: int, *, use_dora: bool) -> Adapter:
    """Of matrices that are stored as (in, out), a square one among them."""
    modules = {"transformer.h.0.attn.c_attn": (48, 16), "transformer.h.0.attn.c_proj": (16, 16)}
    options = {"r": 2, "lora_alpha": 3, "fan_in_fan_out": True, "use_dora": use_dora, "task_type": "CAUSAL_LM"}
    return Adapter(Model("gpt2", 0), seed, modules, options)


def lora_of_embedder(seed: int) -> Adapter:
    """With biases, and a Dense module of its own."""
    modules = {f"encoder.layer.{layer}.attention.self.query": (16, 16) for layer in range(2)}
    options = {"r": 2, "lora_alpha": 2, "lora_bias": True}
    return Adapter(Model("bert", 0, form="embedder"), seed, modules, options, with_modules=True)


LAYERS = [
    {"match": r"layer\.0\..*", "weights": [1.0, 0.0]},
    {"match": r"layer\..*", "weights": [0.1, 0.9]},
    {"match": "scale", "weights": [0.0, 1.0]},
]


def pair(family: str, dtype: str = "float32", forms: tuple[str, str] = ("", ""), **keys: Any) -> dict[str, Any]:
    """A third and two thirds of two models of a family."""
    return recipe((Model(family, 1, dtype, forms[0]), 1 / 3), (Model(family, 2, dtype, forms[1]), 2 / 3), **keys)


MIXES: dict[str, dict[str, Any]] = {
    # methods and types
    "linear, large": pair("large", "bfloat16"),
    "linear, float16": thirds("float16"),
    "linear, bfloat16": thirds("bfloat16"),
    "linear, float32": thirds("float32"),
    "linear, float64": thirds("float64"),
    "linear, bfloat16 with float32 and float64": recipe(
        (plain(1, "bfloat16"), 0.2), (plain(2), 0.3), (plain(3, "float64"), 0.5)
    ),
    "linear, float16 with bfloat16": recipe((plain(1, "float16"), 0.4), (plain(2, "bfloat16"), 0.6)),
    "linear, float32 with float64 into float32": recipe((plain(1), 0.4), (plain(2, "float64"), 0.6)),
    "linear, float32 into bfloat16": pair("plain", dtype="float32") | {"dtype": "bfloat16"},
    "linear, bfloat16 into float64": pair("plain", "bfloat16") | {"dtype": "float64"},
    "linear, a weight below 0": recipe((plain(1), 1.5), (plain(2), -0.3), (plain(3), -0.2)),
    "linear, a weight of 0": recipe((plain(1, "bfloat16"), 0.4), (plain(2), 0.0), (plain(3, "bfloat16"), 0.6)),
    "linear, all of one ingredient": recipe((plain(1), 0.0), (plain(2, "float16"), 1.0)),
    "linear, the same infinities and NaN everywhere": pair("plain", forms=("odd", "odd")),
    "linear, an anchor": recipe(
        (plain(1, "bfloat16"), 0.5), (plain(2, "bfloat16"), 0.5), anchor={"model": plain(0, "bfloat16"), "share": 0.3}
    ),
    "linear, layers": pair("plain", layers=LAYERS),
    "linear, whole numbers and flags": pair("plain", forms=("counting", "counting")),
    "task arithmetic, float32": arithmetic((plain(1), 0.7), (plain(2), -0.4), base=plain(0), lam=0.9),
    "task arithmetic, bfloat16 and layers on a float32 base": arithmetic(
        (plain(1, "bfloat16"), 1.0), (plain(2, "bfloat16"), 1.0), base=plain(0), lam=0.5, layers=LAYERS
    ),
    "ties, large": ties((Model("large", 1), 1.0), (Model("large", 2), 1.0), base=Model("large", 0), density=0.25),
    "ties, float32": ties((plain(1), 0.5), (plain(2), 0.3), (plain(3), 0.2), base=plain(0)),
    "ties, bfloat16 of equal weights": ties(
        *((plain(seed, "bfloat16"), 1.0) for seed in (1, 2, 3)), base=plain(0, "bfloat16"), density=0.5, lam=1.3
    ),
    "ties, float16 of density 1": ties(
        (plain(1, "float16"), 0.6), (plain(2, "float16"), 0.4), base=plain(0, "float16"), density=1.0
    ),
    "ties, float64 with float32": ties((plain(1), 1.0), (plain(2, "float64"), 1.0), base=plain(0), density=0.1),
    "ties, equal magnitudes": ties(
        *((plain(seed, form="coarse"), weight) for seed, weight in ((1, 0.5), (2, 0.3), (3, 0.2), (4, 0.0))),
        base=plain(0, form="coarse"),
        density=0.3,
        lam=0.8,
    ),
    "ties, layers and another type": ties(
        (plain(1), 0.5), (plain(2), 0.5), base=plain(0), density=0.7, layers=LAYERS, dtype="float16"
    ),
    # adapters
    "adapters, two LoRAs on one base": recipe((lora(1), 0.25), (lora(2, factors="bfloat16"), 0.75)),
    "adapters, all of a LoRA in bfloat16": recipe((lora(1, "bfloat16"), 1.0), (full(1, "bfloat16"), 0.0)),
    "adapters, a LoRA and a rsLoRA by ties": ties((lora(1), 0.6), (rslora(2, "float32", "float32"), 0.4), base=full(0)),
    "adapters, a rsLoRA and a whole model by task arithmetic": arithmetic(
        (rslora(1, "bfloat16", "float32"), 0.8), (full(1, "bfloat16"), 0.5), base=full(0, "bfloat16"), lam=1.1
    ),
    "adapters, a DoRA and a whole model": recipe((dora(1), 0.35), (full(1), 0.65)),
    "adapters, a DoRA and a LoRA by ties": ties(
        (dora(1, "bfloat16", "bfloat16"), 1.0), (lora(2, "bfloat16"), 1.0), base=full(0, "bfloat16"), density=0.4
    ),
    "adapters, a DoRA of embeddings": recipe((dora_of_embeddings(1, "float16"), 0.5), (dora(2, "float16"), 0.5)),
    "adapters, matrices that lie turned": recipe((turned(1, use_dora=False), 0.3), (turned(2, use_dora=True), 0.7)),
    "adapters, an embedder's": recipe((lora_of_embedder(1), 0.4), (Model("bert", 0, form="embedder"), 0.6)),
    # how ingredients are stored
    "stored, with a prefix": pair("bert", forms=("", "prefixed")),
    "stored, under legacy names in a wrapper": pair("bert", "bfloat16", forms=("", "legacy")),
    "stored, legacy names first": pair("bert", forms=("legacy", "prefixed")),
    "stored, in other files": pair("plain", "bfloat16", forms=("sharded", "")),
    "stored, pickled, an encoder-decoder with tied tensors": pair("t5", forms=("", "pickled")),
    "stored, tied tensors twice and once": pair("tied llama", forms=("twice", "")),
    "stored, experts one by one and fused": recipe(
        (Model("experts one by one", 1, "bfloat16"), 0.5), (Model("fused experts", 2, "bfloat16"), 0.5)
    ),
    "stored, fused experts and one by one": recipe(
        (Model("fused experts", 1), 0.5), (Model("experts one by one", 2), 0.5)
    ),
    "stored, an embedder with a Dense module": pair("bert", forms=("embedder", "embedder")),
    "stored, a tensor that one lacks": recipe(
        (Model("bert", 1), 0.5), (Model("bert without pooler", 2), 0.5), missing={r"pooler\..*": "first"}
    ),
    "stored, as a recipe in a recipe": recipe((Inner(thirds("bfloat16")), 0.6), (plain(4, "bfloat16"), 0.4)),
}
for _dtype in ("float32", "bfloat16"):
    _three = [(plain(seed, _dtype), weight) for seed, weight in ((1, 0.5), (2, 0.3), (3, 0.2))]
    _based = {"base": plain(0, _dtype), "seed": 7}
    for _method in ("slerp", "nuslerp"):
        MIXES[f"{_method}, {_dtype}"] = recipe((_three[0][0], 0.7), (_three[1][0], 0.3), method=_method)
    for _method in ("multislerp", "karcher"):
        MIXES[f"{_method}, {_dtype}"] = recipe(*_three, method=_method)
    for _method in ("model_stock", "sce", "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs"):
        MIXES[f"{_method}, {_dtype}"] = recipe(*_three, method=_method, **_based)
    MIXES[f"breadcrumbs_ties, {_dtype}"] = recipe(*_three, method="breadcrumbs_ties", **_based)
    for _method in ("arcee_fusion", "nearswap"):
        MIXES[f"{_method}, {_dtype}"] = recipe((_three[0][0], 1.0), method=_method, **_based)
    MIXES[f"ties over the whole model, {_dtype}"] = recipe(
        *_three, method="ties", base=plain(0, _dtype), parameters={"trim": "model", "elect": "weighted", "merge": "sum"}
    )
"""What it is -> its recipe."""


# -- how they are made -------------------------------------------------------------------------------------------------

WAYS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "on several threads with little memory": (
        {"threads": 3, "max_memory": 800_000},
        ("linear, large", "linear, float16 with bfloat16", "adapters, a DoRA of embeddings"),
    ),
    "on several threads with little memory for a search": (
        {"threads": 2, "max_memory": 34_500_000},
        ("ties, large", "ties, float32", "adapters, a DoRA and a LoRA by ties"),
    ),
    "in small files": (
        {"max_shard_size": 4000, "threads": 1},
        ("ties, float32", "stored, pickled, an encoder-decoder with tied tensors", "adapters, an embedder's"),
    ),
}
"""How -> options, and the mixes that are made so, too."""
ON_LITTLE_DISK = (
    "linear, float64",
    "adapters, a DoRA and a LoRA by ties",
    "stored, in other files",
    "stored, experts one by one and fused",
)
ON_RAY = ("ties, equal magnitudes", "adapters, a DoRA of embeddings", "stored, an embedder with a Dense module")
WITHOUT_TORCH = (
    "linear, large",
    "linear, bfloat16",
    "linear, float32 with float64 into float32",
    "linear, the same infinities and NaN everywhere",
    "linear, layers",
    "task arithmetic, float32",
    "ties, float32",
    "ties, bfloat16 of equal weights",
    "ties, float64 with float32",
    "ties, equal magnitudes",
    "stored, in other files",
    "stored, an embedder with a Dense module",
)
IN_PROCESSES = ("linear, large", "ties, large", "ties, bfloat16 of equal weights")
PROGRAM = """
import json, subprocess, sys
from cocktail_hub import MixOptions, mix
from cocktail_hub.evaluation import load_check

load_check._start, load_check.LoadCheck.wait = (lambda *_, **__: None), (lambda _: ())  # for made-up models
started = []
popen = subprocess.Popen.__init__
subprocess.Popen.__init__ = lambda self, *args, **keywords: (started.append(args), popen(self, *args, **keywords))[1]
for job in json.load(sys.stdin):
    if job["processes"]:  # as for models of many gigabytes
        limits = [module for module in sys.modules.values() if "WORTH_PROCESSES" in vars(module)]
        assert limits
        for module in limits:
            module.WORTH_PROCESSES = 0
        started.clear()
    mix(job["recipe"], output=job["output"], options=MixOptions(threads=2))
    assert "torch" not in sys.modules
    assert len(started) == job["processes"], started
"""
"""Makes mixes with numpy alone, first here, then with one thread in a process of its own."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module")
def without_torch(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mixes that were made without torch, and in processes."""
    root = tmp_path_factory.mktemp("without-torch")
    wanted = [("alone", name) for name in WITHOUT_TORCH] + [("processes", name) for name in IN_PROCESSES]
    jobs = [
        {"recipe": shelf.written(MIXES[name]), "output": str(root / how / name), "processes": int(how == "processes")}
        for how, name in wanted
    ]
    for how in ("alone", "processes"):
        (root / how).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(jobs), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return root


def golden() -> dict[str, str]:
    return json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}


def record(name: str, digest: str) -> None:
    """Write a line of golden.json, and drop those of mixes that are no more."""
    lines = {key: value for key, value in golden().items() if key in (INPUTS, *MIXES)} | {name: digest}
    GOLDEN.write_text(json.dumps(lines, indent=2, sort_keys=True) + "\n")


def digest_of(folder: Path) -> str:
    """The sha256 of name, dtype, shape and bytes of every tensor in a folder, however it is cut into files."""
    found: dict[str, tuple[str, list[int], bytes]] = {}
    for path in folder.rglob("*.safetensors"):
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        for tensor, entry in header.items():
            name = (path.parent.relative_to(folder) / tensor).as_posix()
            assert name not in found
            begin, end = (start + offset for offset in entry["data_offsets"])
            found[name] = (entry["dtype"], entry["shape"], content[begin:end])
    assert found
    sha256 = hashlib.sha256()
    for name in sorted(found):
        dtype, shape, data = found[name]
        sha256.update(f"{name} {dtype} {shape} {len(data)}\n".encode())
        sha256.update(data)
    return sha256.hexdigest()


INPUTS = "the numbers that go in"


def test_the_numbers_that_go_in_are_the_recorded_ones(tmp_path: Path) -> None:
    tensors = {dtype: numbers(7, dtype, (30, 30), dtype) for dtype in FLOATS}
    save(tmp_path / "model.safetensors", tensors | {"coarse": numbers(7, "x", (99,), "float32", coarse=True)})
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    found = digest_of(tmp_path)
    if RECORDING:
        record(INPUTS, found)
    assert found == golden()[INPUTS]


@pytest.mark.parametrize("name", MIXES)
def test_a_mix_has_the_recorded_bytes(name: str, shelf: Shelf, tmp_path: Path) -> None:
    made = mix(shelf.written(MIXES[name]), output=tmp_path / "mix", options=MixOptions(force=True))
    found = digest_of(made.path)
    if RECORDING:
        record(name, found)
    assert found == golden()[name]


@pytest.mark.parametrize(("way", "name"), [(way, name) for way, (_, names) in WAYS.items() for name in names])
def test_the_options_do_not_show_in_the_bytes(way: str, name: str, shelf: Shelf, tmp_path: Path) -> None:
    options = MixOptions(force=True, **WAYS[way][0])
    made = mix(shelf.written(MIXES[name]), output=tmp_path / "mix", options=options)
    assert made.report["merged"].threads == WAYS[way][0]["threads"]
    assert digest_of(made.path) == golden()[name]


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_numpy_makes_the_recorded_bytes(name: str, without_torch: Path) -> None:
    assert digest_of(without_torch / "alone" / name) == golden()[name]


@pytest.mark.parametrize("name", IN_PROCESSES)
def test_worker_processes_make_the_recorded_bytes(name: str, without_torch: Path) -> None:
    assert digest_of(without_torch / "processes" / name) == golden()[name]


@pytest.mark.parametrize("name", ON_LITTLE_DISK)
def test_what_is_published_on_little_disk_has_the_recorded_bytes(
    name: str, hub: LoopbackHub, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cocktail"))
    repo_id = f"alice/golden-{ON_LITTLE_DISK.index(name)}"
    options = MixOptions(low_disk=True, max_shard_size=40_000)
    publish(shelf.written(MIXES[name], on_hub=True), repo_id, token=TOKEN, options=options)
    found = snapshot_download(repo_id, token=TOKEN, cache_dir=tmp_path / "looked-at")
    assert digest_of(Path(found)) == golden()[name]


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("name", ON_RAY)
def test_a_cluster_makes_the_recorded_bytes(name: str, ray: Any, shelf: Shelf, tmp_path: Path) -> None:
    options = MixOptions(engine="ray", force=True, max_shard_size=300_000)
    made = mix(shelf.written(MIXES[name]), output=tmp_path / "mix", options=options)
    assert digest_of(made.path) == golden()[name]


def test_nothing_else_is_recorded() -> None:
    assert golden().keys() == {INPUTS, *MIXES}
