"""How far models went from their base, and how much their ways have in common: one pass over their weights.

Lengths and angles of task vectors say what a method can do before anything is run: docs/compare.md.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import RecipeError
from cocktail_hub.merge.engine.workers import WorkerPool, make_workers
from cocktail_hub.merge.kernels.buffers import ShardJob
from cocktail_hub.merge.kernels.sweep import Sweep
from cocktail_hub.merge.run import bytes_to_fetch, opened_models, plan_mix, require_device
from cocktail_hub.methods.contract import Round
from cocktail_hub.recipe import MERGE_FORMAT
from cocktail_hub.recipe.reference import Ingredient
from cocktail_hub.recipe.tensor_rules import LAYER
from cocktail_hub.search.model_folders import staging_folder
from cocktail_hub.storage.cache import Cache
from cocktail_hub.storage.disk import require_free_space, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.merge.plan import TensorPlan
    from cocktail_hub.recipe import ModelReference, Recipe, ResolvedRecipe

COMPARE_FORMAT = 1
"""Raised whenever other numbers are measured: what is cached is then measured anew."""
REST = "other tensors"
"""Name of the part without a layer: embeddings, the last norm, heads."""
OPPOSED = -0.05
"""Cosine from which two task vectors are said to work against each other."""
ALIKE = 0.5
"""Mean cosine from which models are said to have learnt the same."""
UNEVEN = 3.0
"""Ratio of the longest task vector to the shortest from which the longest is said to decide."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What was measured of some tensors: a layer, or the whole model."""

    numel: int
    """Elements of each model."""
    base: float
    """Length of the base: the square root of the sum of squares."""
    gram: tuple[tuple[float, ...], ...]
    """Dot products of all pairs of task vectors."""
    both: tuple[tuple[float, ...], ...]
    """For all pairs, how many elements both changed."""
    against: tuple[tuple[float, ...], ...]
    """For all pairs, how many of those they changed in opposite directions."""

    @property
    def lengths(self) -> list[float]:
        """Length of each task vector."""
        return [math.sqrt(row[i]) for i, row in enumerate(self.gram)]

    @property
    def relative(self) -> list[float]:
        """Length of each task vector as a fraction of the base's; 0 where the base is 0."""
        return [length / self.base if self.base else 0.0 for length in self.lengths]

    @property
    def cosines(self) -> list[list[float]]:
        """Cosine of each pair of task vectors; 0 with one that is 0."""
        found = self.lengths
        return [
            [dot / (a * b) if a and b else 0.0 for dot, b in zip(row, found, strict=True)]
            for row, a in zip(self.gram, found, strict=True)
        ]

    @property
    def disagreement(self) -> list[list[float]]:
        """For each pair, the fraction of elements that both changed, but in opposite directions."""
        return [
            [few / many if many else 0.0 for few, many in zip(*rows, strict=True)]
            for rows in zip(self.against, self.both, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "elements": self.numel,
            "base_length": self.base,
            "lengths": self.lengths,
            "relative_lengths": self.relative,
            "cosines": self.cosines,
            "sign_disagreement": self.disagreement,
        }

    @classmethod
    def of(cls, numel: int, totals: Sequence[float], models: int) -> Part:
        """Read what `products_and_signs` yields of so many models, added up."""
        rows = [[[0.0] * models for _ in range(models)] for _ in range(3)]
        values = iter(totals[1:])
        for i, j in itertools.combinations_with_replacement(range(models), 2):
            for matrix in rows[: 1 if i == j else 3]:
                matrix[i][j] = matrix[j][i] = next(values)
        gram, both, against = (tuple(map(tuple, matrix)) for matrix in rows)
        return cls(numel=numel, base=math.sqrt(totals[0]), gram=gram, both=both, against=against)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The task vectors of several models over one base."""

    base: str
    """The model that the others come from."""
    models: tuple[str, ...]
    """The others."""
    whole: Part
    """All tensors of floating-point numbers together."""
    parts: Mapping[str, Part]
    """Name of a layer, such as `model.layers.0`, or `REST` -> what was measured of its tensors."""

    @property
    def pairs(self) -> list[tuple[float, int, int]]:
        """Cosine and indices of each pair of models."""
        return [(self.whole.cosines[i][j], i, j) for i, j in itertools.combinations(range(len(self.models)), 2)]

    @property
    def sentences(self) -> list[str]:
        """What follows from the numbers for the choice of a method, a sentence each (see docs/compare.md)."""
        lengths, relative = self.whole.lengths, self.whole.relative
        if still := [name for name, length in zip(self.models, lengths, strict=True) if not length]:
            return [f"'{still[0]}' is the base itself: there is no task vector to compare."]
        if len(lengths) == 1:
            return ["One task vector: choose how far to go along it with `cocktail sweep` (weight, or lambda)."]
        total = math.sqrt(max(math.fsum(map(math.fsum, self.whole.gram)), 0.0)) / (self.whole.base or 1.0)
        average, each = total / len(lengths), fmean(relative)
        said = [f"Their average moves the base by {average:.2%}, their sum by {total:.2%}, one model by {each:.2%}."]
        cosine, i, j = min(self.pairs)
        mean = fmean(pair[0] for pair in self.pairs)
        if cosine <= OPPOSED:
            said.append(
                f"'{self.models[i]}' and '{self.models[j]}' work against each other (cosine {cosine:.2f}): an average "
                "undoes part of both. Leave one out, or let methods that elect a sign decide (`ties`, `dare_ties`): "
                "measure which."
            )
        elif mean >= ALIKE:
            said.append(
                f"They learnt much the same (mean cosine {mean:.2f}), as runs of one training do: average them "
                "(`linear`); `model_stock` also says how near the base to stay."
            )
        else:
            said.append(
                f"They learnt different things (mean cosine {mean:.2f}): take weights that sum to 1 (`linear`, or "
                "`task_arithmetic` with lambda 1), which helped with public fine-tunes of language models. Where each "
                "model is for a task of its own, also try `ties` or `multislerp`, which keep more of each."
            )
        if max(lengths) > UNEVEN * min(lengths):
            longest = self.models[lengths.index(max(lengths))]
            ratio = max(lengths) / min(lengths)
            said.append(
                f"'{longest}' went {ratio:.1f} times as far as another, so with equal weights it decides: give it a "
                "smaller weight."
            )
        return said

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "base": self.base,
            "models": list(self.models),
            "whole": self.whole.to_dict(),
            "parts": {name: part.to_dict() for name, part in self.parts.items()},
            "sentences": self.sentences,
        }

    def plot(self, path: str | Path) -> None:
        """Draw the cosines of all pairs, and lengths and cosines layer by layer, as heat maps.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        from cocktail_hub.search.plot import draw_heat_maps

        names = [f"{i}: {name.rstrip('/').rpartition('/')[2]}" for i, name in enumerate(self.models, 1)]
        maps = [("cosines", self.whole.cosines, names, names)]
        parts = list(self.parts)
        maps.append(("length / base", [part.relative for part in self.parts.values()], parts, names))
        if self.pairs:
            cosines = [[part.cosines[i][j] for _, i, j in self.pairs] for part in self.parts.values()]
            maps.append(("cosines", cosines, parts, [f"{i + 1}, {j + 1}" for _, i, j in self.pairs]))
        draw_heat_maps(maps, path)


def recipe_of_task_vectors(recipe: Recipe, base: ModelReference | None) -> Recipe:
    """Return a recipe whose method gets every task vector of a recipe's models: `ties`, with equal weights.

    Args:
        recipe: every model pinned.
        base: the model that they come from; `None`: the recipe's, or the one that its adapters adapt. Once pinned,
            it is left out of the ingredients.

    Raises:
        RecipeError: there is no base, or nothing beside it.
    """
    base = base or recipe.common_base
    if base is None:
        raise RecipeError(
            "The recipe has no `base`, so there are no task vectors to compare.\n"
            "They are the differences between the models and the one that they were fine-tuned from.\n"
            "Name that model: `--base org/name`, or `base=` in Python."
        )
    anchor = [Ingredient.from_value(recipe.anchor, "anchor")] if recipe.anchor else []
    others = [each for each in (*anchor, *recipe.ingredients) if each.identity() != base.identity()]
    if not others:
        raise RecipeError(
            f"The recipe has no model beside its base '{base.label}'.\n"
            "A task vector is the difference between a model and its base.\nAdd models that were fine-tuned from it."
        )
    return replace(
        recipe,
        method="ties",
        base=base,
        ingredients=tuple(replace(each, weight=1 / len(others), parameters={}) for each in others),
        weighting=None,
        anchor=None,
        parameters={},
        normalize=False,
        layers=(),
        keep=(),
    )


def comparison_file(recipe: ResolvedRecipe) -> Path:
    """The file for what was measured, named by everything that decides it."""
    key = f"{COMPARE_FORMAT} {MERGE_FORMAT} {recipe.digest}"
    return Cache().root / "comparisons" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def measure_task_vectors(recipe: ResolvedRecipe, report: CompatibilityReport, options: MixOptions) -> Comparison:
    """Measure what `recipe_of_task_vectors` returned, or find it in the cache.

    Raises:
        DiskSpaceError: the disk has too little room for downloads.
        IncompatibleError: squares of differences exceed float64.
        CocktailError: a model cannot be read.
    """
    file = comparison_file(recipe)
    try:
        found = {name: (numel, totals) for name, numel, totals in json.loads(file.read_text(encoding="utf-8"))}
    except (FileNotFoundError, ValueError, TypeError):
        found = measure_parts(report, options)
        listed = [(name, numel, totals) for name, (numel, totals) in found.items()]
        write_atomically(file, json.dumps(listed), sync=False)
    labels = [ingredient.label for ingredient in recipe.ingredients]
    whole = [math.fsum(column) for column in zip(*(totals for _, totals in found.values()), strict=True)]
    return Comparison(
        base=recipe.base.label if recipe.base else "",
        models=tuple(labels),
        whole=Part.of(sum(numel for numel, _ in found.values()), whole, len(labels)),
        parts={name: Part.of(numel, totals, len(labels)) for name, (numel, totals) in found.items()},
    )


def measure_parts(report: CompatibilityReport, options: MixOptions) -> dict[str, tuple[int, list[float]]]:
    """Read every model once; return for each part its elements and the sums of `products_and_signs`."""
    options = replace(options, engine="threads")
    require_device(options)
    require_free_space([(options.hub.cache_folder, bytes_to_fetch(report.models), "the downloads")])
    plan, step = plan_mix(report, options.max_shard_size), Round(statistic="sum", values=products_and_signs)
    sums: dict[str, tuple[str, int, list[float]]] = {}
    workers = make_workers(plan, options.threads, options.memory_bytes, options.device)
    with (
        staging_folder() as folder,
        opened_models(plan, report, folder, options) as inputs,
        closing(WorkerPool(workers)) as pool,
    ):
        for shard in plan.shards:
            component = plan.components[shard.component]
            with inputs.opened(shard) as readers:
                job = ShardJob(method=plan.method, models=component.models, sources=readers, output=None)

                def work(worker: Any, tensor: TensorPlan, job: ShardJob = job, place: str = component.folder) -> None:
                    whole = [(tensor.name, 0, tensor.numel)]
                    found = Sweep(worker, job, replace(tensor, rule="models"), whole).sums(step, ())
                    layer = LAYER.search(tensor.name)
                    part = f"{place} {tensor.name[: layer.end()] if layer else REST}".strip()
                    sums[f"{place}/{tensor.name}"] = (part, tensor.numel, found)

                tensors = [each for each in shard.tensors if each.rule == "task_vectors" and each.numel]
                pool.run(iter(sorted(tensors, key=lambda each: -each.numel)), work)
    order = [
        f"{plan.components[shard.component].folder}/{each.name}" for shard in plan.shards for each in shard.tensors
    ]
    parts: dict[str, list[tuple[int, list[float]]]] = {}
    for part, numel, found in (sums[name] for name in order if name in sums):
        parts.setdefault(part, []).append((numel, found))
    return {
        part: (sum(n for n, _ in each), [math.fsum(column) for column in zip(*(f for _, f in each), strict=True)])
        for part, each in parts.items()
    }


def products_and_signs(xp: Any, vectors: Sequence[Any], *_: Any) -> Iterator[Any]:
    """Yield, of elements of the base and the models, what is added up: squares of the base, then products of pairs.

    After the product of two different models come those elements that both changed, and those where they disagree.
    """
    base, *models = (xp.asarray(vector, dtype=xp.float64) for vector in vectors)
    yield base * base
    changes = [model - base for model in models]
    for i, change in enumerate(changes):
        yield change * change
        for other in changes[i + 1 :]:
            product = change * other
            yield product
            yield xp.asarray(product != 0, dtype=xp.float64)
            yield xp.asarray(product < 0, dtype=xp.float64)
