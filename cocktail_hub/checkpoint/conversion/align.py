"""Bring every ingredient to the first one's tensors, or say which tensor stands in the way. Headers and configs only.

Where all names are equal, nothing is renamed and transformers is not loaded. Where they differ, transformers' own
conversions say which tensors mean the same (`canonical.py`), and the result keeps the first ingredient's names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.adapters.lora import AdaptedWeights
from cocktail_hub.checkpoint.conversion.errors import (
    different_kind,
    different_shape,
    extra_tensors,
    missing_tensors,
)
from cocktail_hub.checkpoint.conversion.matching import First, Match
from cocktail_hub.checkpoint.conversion.tensor_mapping import TensorMapping
from cocktail_hub.methods.dtypes import EXACT
from cocktail_hub.recipe.missing import MissingPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.checkpoint.weight_files import WeightFiles


def align(
    layouts: Sequence[WeightFiles | AdaptedWeights],
    configs: Sequence[Mapping[str, Any]],
    *,
    missing: Mapping[str, str] | None = None,
) -> tuple[TensorMapping, ...]:
    """Say how each ingredient's files are read under the names of the first one's.

    Args:
        layouts: what the weight files of each ingredient look like, in recipe order.
        configs: config.json of each, `{}` where there is none (modules of sentence-transformers). An adapter's layout
            brings its own.
        missing: regular expression over a whole tensor name -> `first` (a tensor that an ingredient lacks is taken from
            the first alone) or `drop` (a tensor that the first lacks is left out). Names are the first ingredient's;
            for `drop`, also those in the other one's files.

    Returns:
        A view per ingredient. The first one's is plain unless training tools wrapped its names.

    Raises:
        IncompatibleError: a tensor is missing, left over, or of another shape or kind.
        RecipeError: `missing` is malformed, or one of its patterns matches no tensor.
    """
    policy = MissingPolicy(missing or {})
    configs = [a.config if isinstance(a, AdaptedWeights) else c for a, c in zip(layouts, configs, strict=True)]
    first = First(layouts[0], configs[0])
    mappings = [_own_view(first)]
    for layout, config in zip(layouts[1:], configs[1:], strict=True):
        match = Match(first, layout, config, policy)
        match.run()
        if match.missing:
            raise missing_tensors(layout.name, first.name, match.missing)
        if match.extra:
            raise extra_tensors(layout.name, first.name, match.extra)
        _compare(first, match, config)
        mappings.append(match.mapping())
    policy.refuse_idle([*first.specs, *(name for layout in layouts for name in layout.specs)])
    return tuple(mappings)


def _own_view(first: First) -> TensorMapping:
    return TensorMapping(
        layout=first.layout,
        specs=first.specs,
        names=first.raw_of,
        runs={},
        blocks=(),
        absent=frozenset(),
        equal=(),
        notes=(),
        config=first.config,
    )


def _compare(first: First, match: Match, config: Mapping[str, Any]) -> None:
    """Refuse tensors of another shape or kind, those of the vocabulary in such words."""
    for name, spec in match.specs.items():
        expected = first.specs[name]
        if spec.shape != expected.shape:
            sizes = {_vocabulary(first.config), _vocabulary(config)}
            rows = spec.shape[1:] == expected.shape[1:] and {spec.shape[:1], expected.shape[:1]} & {(s,) for s in sizes}
            shapes = (spec.shape, expected.shape)
            raise different_shape(match.layout.name, first.name, name, shapes, vocabulary=bool(rows))
        if spec.dtype != expected.dtype and (spec.dtype in EXACT or expected.dtype in EXACT):
            raise different_kind(match.layout.name, first.name, name, spec, expected)


def _vocabulary(config: Mapping[str, Any]) -> int | None:
    text = config.get("text_config")
    size = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    return size if isinstance(size, int) else None
