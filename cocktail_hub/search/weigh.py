"""Compute the shares of a recipe whose ingredients have none: find the examples, score, apply the rule."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cocktail_hub.evaluation.examples import load_examples
from cocktail_hub.evaluation.losses_cache import LossesCache
from cocktail_hub.evaluation.model import pick_device
from cocktail_hub.evaluation.on_ray import score_on_ray
from cocktail_hub.evaluation.scorer import Candidate, score_all
from cocktail_hub.evaluation.settings import ScoringSettings
from cocktail_hub.hub.progress import bar
from cocktail_hub.merge.download import bytes_to_fetch
from cocktail_hub.merge.materialize import materialize
from cocktail_hub.merge.small_files import TOKENIZER_FILES, copy_small_files
from cocktail_hub.recipe import canonical_json
from cocktail_hub.search.report import evidence_of
from cocktail_hub.search.softmax import require_enough, uniform_shares, weigh
from cocktail_hub.storage.cache import Cache
from cocktail_hub.storage.disk import require_free_space, sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.evaluation.example_files import ExamplesFound
    from cocktail_hub.evaluation.losses import Losses, Progress
    from cocktail_hub.evaluation.settings import Dtype, Pooling
    from cocktail_hub.hub import Hub
    from cocktail_hub.recipe import Ingredient, Weighting
    from cocktail_hub.search.softmax import Shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """Shares, and everything that they came from."""

    weights: tuple[float, ...]
    """A share per ingredient, in recipe order."""
    evidence: dict[str, Any]
    """What they came from as JSON values, for the recipe."""
    losses: tuple[Losses, ...] = ()
    """The losses behind them, in recipe order; empty for equal shares."""
    shares: Shares | None = None
    """The rule's result with what is worth knowing about it; `None` for equal shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringContext:
    """What scoring needs to know besides the recipe."""

    report: CompatibilityReport
    """The models that go into the mix, every ingredient among them."""
    examples: ExamplesFound | None
    """The examples; `None` for equal weights, which need none."""
    hub: Hub
    """How to talk to the Hub."""
    device: str = "auto"
    """Where models are run: `auto`, `cpu` or `cuda`."""
    settings: ScoringSettings | None = None
    """How losses are computed; `None`: as the recipe's `weighting` says."""
    trust_remote_code: bool = False
    """Whether model code from the ingredients' repos may run."""
    engine: str = "threads"
    """`threads`: one ingredient after the other, here; `ray`: side by side on a cluster."""


def weigh_ingredients(ingredients: Sequence[Ingredient], weighting: Weighting, context: ScoringContext) -> Weighed:
    """Compute a share per ingredient.

    Losses are kept: an ingredient that was scored on the same examples before is not loaded again.

    Args:
        ingredients: pinned, in recipe order, without the anchor.
        weighting: how to compute the shares.
        context: models, origin and device.

    Raises:
        ScoringError: the examples cannot rank the ingredients; says which example of which model.
        SourceError: the examples cannot be found.
        RecipeError: a recipe from the Hub names examples on this machine.
    """
    found = context.examples
    if found is None:
        return Weighed(weights=uniform_shares(len(ingredients)), evidence={"rule": "uniform"})
    settings = context.settings or _settings(weighting, context)
    examples = load_examples(found.content, settings.task, columns=weighting.columns)
    require_enough(len(examples.rows), weighting.temperature)
    if context.engine != "ray" and settings.device != "auto":
        pick_device(settings.device)
    with ExitStack() as stack:
        scratch = stack.enter_context(closing(_Scratch(keep=context.engine == "ray")))
        small = scratch.fresh()
        losses = score_all(
            [_candidate(ingredient, context, scratch) for ingredient in ingredients],
            examples,
            settings,
            tokenizer=_tokenizer(context, small),
            cache=LossesCache(root=Cache().root / "losses"),
            on_progress=stack.enter_context(_progress(len(ingredients))),
            run=score_on_ray if context.engine == "ray" else None,
        )
    shares = weigh(losses, rule=weighting.rule, temperature=weighting.temperature)
    evidence = evidence_of(losses, shares, examples=examples, settings=settings)
    evidence["examples"] |= found.to_dict()
    return Weighed(weights=shares.weights, evidence=evidence, losses=losses, shares=shares)


def _settings(weighting: Weighting, context: ScoringContext) -> ScoringSettings:
    return ScoringSettings(
        task=context.report.recipe.task or context.report.kind.task,
        max_length=weighting.max_length,
        neg_number=weighting.negatives,
        batch_size=weighting.batch_size,
        seed=weighting.seed,
        chat_template=weighting.chat_template,
        pooling=cast("Pooling | None", weighting.pooling),
        normalize=weighting.normalize,
        device=context.device,
        dtype=cast("Dtype", weighting.dtype),
        trust_remote_code=context.trust_remote_code,
    )


def _candidate(ingredient: Ingredient, context: ScoringContext, scratch: _Scratch) -> Candidate:
    """An ingredient whose folder is looked for only if it has to be scored."""
    identity = ingredient.identity()
    models = context.report.models
    index = next(i for i, model in enumerate(models) if model.located.reference.identity() == identity)

    def folder() -> Path:
        require_free_space([(context.hub.cache_folder, bytes_to_fetch(models), "the downloads")])
        return materialize(
            models[index], index, context.report.components, scratch.next(), code=context.trust_remote_code
        )

    return Candidate(name=ingredient.label, identity=canonical_json(identity), folder=folder)


def _tokenizer(context: ScoringContext, folder: Path) -> Candidate:
    """The tokenizer that the mix will have, so that every ingredient is asked the same. Its content is its name."""
    copy_small_files(context.report, folder, code=context.trust_remote_code)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    contents = {name: sha256_of(path) for name, path in sorted(files.items()) if _of_tokenizer(name)}
    main = folder / context.report.models[context.report.first].main
    return Candidate(name="the mix's tokenizer", identity=canonical_json(contents), folder=lambda: main)


def _of_tokenizer(path: str) -> bool:
    name = path.rpartition("/")[2]
    return any(fnmatchcase(name, pattern) for pattern in TOKENIZER_FILES)


class _Scratch:
    """Temporary folders in the cache, where there is room for a model, and which the nodes of a cluster share."""

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._all: list[tempfile.TemporaryDirectory[str]] = []
        self._last: tempfile.TemporaryDirectory[str] | None = None

    def fresh(self) -> Path:
        """An empty folder that stays until the end."""
        place = Cache().root / "staging"
        place.mkdir(parents=True, exist_ok=True)
        self._all.append(tempfile.TemporaryDirectory(prefix="scoring-", dir=place, ignore_cleanup_errors=True))
        return Path(self._all[-1].name)

    def next(self) -> Path:
        """An empty folder for a model; the one before is removed, unless `keep`: ten adapters need the room of one."""
        if self._last is not None and not self._keep:
            self._last.cleanup()
        folder = self.fresh()
        self._last = self._all[-1]
        return folder

    def close(self) -> None:
        """Remove all of them."""
        for folder in self._all:
            folder.cleanup()


@contextmanager
def _progress(count: int) -> Iterator[Callable[[Progress], None]]:
    """One bar over all ingredients, in hundredths of an ingredient."""
    with bar("score", 100 * count, unit="%") as advance:
        reached = 0

        def move(progress: Progress) -> None:
            nonlocal reached
            component = progress.done / progress.total if progress.total else 0.0
            now = int(100 * (progress.ingredient + component))
            advance(max(0, now - reached))
            reached = max(now, reached)

        yield move
