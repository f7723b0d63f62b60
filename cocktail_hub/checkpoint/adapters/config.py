"""Parse adapter_config.json of a PEFT adapter: LoRA, rsLoRA or DoRA; other kinds are refused by the option's name."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.files import read_settings
from cocktail_hub.checkpoint.model_files import ADAPTER_CONFIG
from cocktail_hub.errors import CheckpointError
from cocktail_hub.recipe.tensor_rules import Expression

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.checkpoint.files import RepoFiles

_MOST_PATTERNS = 1000
"""Of an option. Each is compared with the name of every module."""
_LARGEST_RANK = 1_000_000
"""No matrix has more rows."""
_DEFAULT = 8
"""PEFT's default of `r` and `lora_alpha`."""
_REFUSED: Mapping[str, str] = {
    "alora_invocation_tokens": "is active only after certain tokens",
    "arrow_config": "chooses between adapters for each token",
    "kasa_config": "is not a plain product of two matrices",
    "layer_replication": "makes a model of more layers than its base",
    "megatron_config": "splits tensors over machines",
    "monteclora_config": "draws its weights at random",
    "target_parameters": "changes parameters that hold several matrices",
    "trainable_token_indices": "changes single rows of the embeddings",
    "use_bdlora": "is not a plain product of two matrices",
    "use_qalora": "changes pooled inputs",
    "velora_config": "is not a plain product of two matrices",
}
"""Option -> why an adapter that uses it is not a matrix product added to the base."""
_UNDERSTOOD = frozenset(
    {"use_dora", "use_rslora", "runtime_config", "loftq_config", "eva_config", "corda_config", "lora_ga_config"}
)
"""Options named like those of a variant that do not change how a trained adapter is applied."""
_UNCHANGED_BASE = frozenset({"true", "false", "none", "gaussian", "eva", "orthogonal"})
"""Values of `init_lora_weights` that leave the base unchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """How a LoRA adapter is applied."""

    task_type: str | None
    """PEFT's task, such as `SEQ_CLS` or `CAUSAL_LM`."""
    base_class: str | None
    """Class that it was trained on, such as `BertModel`; only where there was no task."""
    rank: int
    """Rank of the product, > 0, for modules that no pattern of `ranks` matches."""
    alpha: float
    """The product is multiplied by alpha / rank."""
    ranks: Mapping[str, int]
    """Pattern of module names -> rank."""
    alphas: Mapping[str, float]
    """Pattern of module names -> alpha."""
    rank_stabilized: bool
    """Whether the product is multiplied by alpha / sqrt(rank) instead (rsLoRA, arXiv:2312.03732)."""
    dora: bool
    """Whether each module has a vector of magnitudes (DoRA, arXiv:2402.09353)."""
    tied: bool
    """Whether tensors that the base ties were trained as one (`ensure_weight_tying`)."""
    transposed: bool
    """Whether the last matrix that PEFT adapted is stored as (in, out), as in GPT-2; the others may differ."""

    def rank_of(self, module: str) -> int:
        """Rank for one module of the model."""
        return int(_matching(self.ranks, module, self.rank))

    def scale(self, module: str) -> float:
        """Factor of the product for one module."""
        rank, alpha = self.rank_of(module), float(_matching(self.alphas, module, self.alpha))
        return alpha / math.sqrt(rank) if self.rank_stabilized else alpha / rank


def read_adapter_config(files: RepoFiles) -> AdapterConfig:
    """Read and check adapter_config.json.

    Raises:
        CheckpointError: it is damaged, or of a kind that is not a matrix product added to the base.
        SourceError: there is none.
    """
    content = read_settings(files, ADAPTER_CONFIG)
    try:
        data = json.loads(content)
        if not isinstance(data, dict):
            raise TypeError("it is not a mapping")  # noqa: TRY301 - reported as damage below
        _refuse_other_kinds(data, files.name)
        ranks = {key: int(value) for key, value in _patterns(data, "rank_pattern").items()}
        rank = int(data.get("r", _DEFAULT))
        if min(rank, *ranks.values(), rank) <= 0:
            raise ValueError("a rank is not positive")  # noqa: TRY301
        if max(rank, *ranks.values(), rank) > _LARGEST_RANK:
            raise ValueError(f"a rank is above {_LARGEST_RANK:,}")  # noqa: TRY301
        return AdapterConfig(
            task_type=data.get("task_type"),
            base_class=(data.get("auto_mapping") or {}).get("base_model_class"),
            rank=rank,
            alpha=_finite(data.get("lora_alpha", _DEFAULT), "lora_alpha"),
            ranks=ranks,
            alphas={key: _finite(value, "alpha_pattern") for key, value in _patterns(data, "alpha_pattern").items()},
            rank_stabilized=bool(data.get("use_rslora")),
            dora=bool(data.get("use_dora")),
            tied=bool(data.get("ensure_weight_tying")),
            transposed=bool(data.get("fan_in_fan_out")),
        )
    except CheckpointError:
        raise
    except (ValueError, TypeError, OverflowError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"'{ADAPTER_CONFIG}' of '{files.name}' cannot be parsed: {error}.\n"
            "Without it, how the adapter changes its base is unknown.\n"
            "Save the adapter again with PEFT's `save_pretrained`.",
            model=files.name,
        ) from error


def _finite(value: Any, option: str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"`{option}` is {number}, which would make every weight that it scales infinite or NaN")
    return number


def _patterns(data: Mapping[str, Any], option: str) -> dict[str, Any]:
    """Pattern of module names -> value. Raises ValueError if a pattern is not a regular expression."""
    found = {str(pattern): value for pattern, value in (data.get(option) or {}).items()}
    if len(found) > _MOST_PATTERNS:
        raise ValueError(f"`{option}` has {len(found):,} patterns, more than the {_MOST_PATTERNS:,} that are read")
    for pattern in found:
        try:
            _suffix(pattern)
        except ValueError as error:
            raise ValueError(f"`{option}` has '{pattern}', which is not a regular expression ({error})") from error
    return found


@lru_cache(maxsize=2 * _MOST_PATTERNS)
def _suffix(pattern: str) -> Expression:
    """PEFT matches a pattern with the end of a module's name."""
    return Expression(rf"(.*\.)?({pattern})")


def _matching(patterns: Mapping[str, float], module: str, default: float) -> float:
    """Return the value of the first pattern that matches a module, as PEFT does."""
    return next((value for pattern, value in patterns.items() if _suffix(pattern).fullmatch(module)), default)


def _refuse_other_kinds(data: Mapping[str, Any], name: str) -> None:
    kind, start = str(data.get("peft_type")), str(data.get("init_lora_weights", True))
    reasons: list[tuple[str, str]] = []
    if kind != "LORA":
        reasons.append((f"peft_type: {kind}", "is not a LoRA, so it cannot be added to the base here"))
    reasons += [(key, why) for key, why in _REFUSED.items() if data.get(key)]
    variants = (key for key in data if key.startswith("use_") or key.endswith("_config"))
    unknown = (key for key in variants if data[key] and key not in _UNDERSTOOD)
    reasons += [(key, "is not known to this version of cocktail_hub") for key in unknown]
    if start.lower() not in _UNCHANGED_BASE:
        why = "changes the base's weights before training, and the adapter fits only those changed weights"
        reasons.append((f"init_lora_weights: {start}", why))
    if reasons:
        option, why = reasons[0]
        raise CheckpointError(
            f"The adapter '{name}' uses `{option}`, which {why}.\n"
            "Read as a plain LoRA it would give other weights than PEFT does.\n"
            "Merge it with PEFT (`merge_and_unload`), save the result, and mix that.",
            model=name,
        )
