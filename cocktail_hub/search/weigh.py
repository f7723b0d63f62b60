"""Compute the weights of a recipe that gives none: score its ingredients, and apply the rule."""

from __future__ import annotations

from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.examples import check_examples
from cocktail_hub.evaluation.losses_cache import LossesCache
from cocktail_hub.evaluation.model import pick_device
from cocktail_hub.evaluation.on_ray import score_on_ray
from cocktail_hub.evaluation.scorer import STEPS, ScoringJob, score_all, score_here
from cocktail_hub.evaluation.settings import ScoringSettings
from cocktail_hub.hub.progress import bar
from cocktail_hub.merge.materialize import materialize
from cocktail_hub.merge.run import bytes_to_fetch
from cocktail_hub.merge.small_files import TOKENIZER_FILES, copy_small_files
from cocktail_hub.recipe import canonical_json
from cocktail_hub.search.report import evidence_of
from cocktail_hub.search.softmax import Weights, uniform_weights, weigh
from cocktail_hub.storage.cache import Cache
from cocktail_hub.storage.disk import require_free_space, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.evaluation.example_files import ExamplesFound
    from cocktail_hub.evaluation.examples import Examples
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.recipe import Ingredient, Recipe, Weighting


def weigh_ingredients(
    recipe: Recipe,
    weighting: Weighting,
    report: CompatibilityReport,
    found: ExamplesFound | None,
    options: MixOptions,
    *,
    lm_cocktail: bool = False,
) -> tuple[Weights, dict[str, Any]]:
    """Compute a weight per ingredient; the anchor is not scored.

    Losses are cached: an ingredient that was scored on the same examples before is not loaded again.

    Args:
        recipe: every model pinned.
        weighting: how to compute the weights.
        report: the models of the recipe.
        found: the examples; `None` for `rule: uniform`, which needs none.
        options: the Hub, the device and the engine.
        lm_cocktail: compute the losses of the original: see `ScoringSettings`.

    Returns:
        The weights, and their evidence as JSON values for the recipe.

    Raises:
        ScoringError: the examples cannot rank the ingredients; names the example and the model.
        SourceError: a model cannot be downloaded or loaded.
    """
    if found is None:
        weights = Weights(rule="uniform", values=uniform_weights(len(recipe.ingredients)))
        return weights, {"rule": "uniform"}
    settings, examples = check_scoring(recipe, weighting, report, found, options, lm_cocktail=lm_cocktail)
    on_ray = options.engine == "ray"
    if not on_ray:
        pick_device(settings.device)  # refuse a missing device before anything is downloaded
    with _staging_folder() as folder, bar("score", STEPS * len(recipe.ingredients), unit="%") as advance:
        losses = score_all(
            _jobs(recipe, report, options, folder, examples=examples, settings=settings),
            LossesCache(Cache().root / "losses"),
            advance=advance,
            runner=score_on_ray if on_ray else score_here,
        )
    weights = weigh(losses, weighting.temperature)
    return weights, evidence_of(weights, found, examples.digest, settings)


def check_scoring(
    recipe: Recipe,
    weighting: Weighting,
    report: CompatibilityReport,
    found: ExamplesFound,
    options: MixOptions,
    *,
    lm_cocktail: bool = False,
) -> tuple[ScoringSettings, Examples]:
    """Check everything about scoring that shows without the models, and return what it needs. As `weigh_ingredients`.

    Raises:
        ScoringError: the models cannot be scored, or not on these examples.
    """
    settings = ScoringSettings(
        task=recipe.task or report.kind.task,
        weighting=weighting,
        device=options.scoring_device,
        trust_remote_code=options.trust_remote_code,
        lm_cocktail=lm_cocktail,
    )
    examples = check_examples(found.rows(), settings.kind, columns=weighting.columns)
    if weighting.temperature == "auto" and len(examples) == 1:
        raise ScoringError(
            "`temperature: auto` needs at least 2 examples, got 1.\n"
            "It is the noise of the losses over the examples, and a single example has none.\n"
            "Give more examples, or a number such as 5.0 for `temperature`."
        )
    return settings, examples


def _jobs(
    recipe: Recipe,
    report: CompatibilityReport,
    options: MixOptions,
    folder: Path,
    *,
    examples: Examples,
    settings: ScoringSettings,
) -> list[ScoringJob]:
    """One job per ingredient; all read with the tokenizer of the mix, which is copied into `folder`."""
    copy_small_files(report, folder, code=options.trust_remote_code)
    tokenizer = {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in TOKENIZER_FILES)
    }
    return [
        ScoringJob(
            name=ingredient.label,
            identity=canonical_json(ingredient.identity()),
            folder=partial(_model_folder, ingredient, report, options),
            tokenizer_folder=folder / report.models[report.first].main,
            tokenizer_identity=canonical_json(tokenizer),
            examples=examples,
            settings=settings,
        )
        for ingredient in recipe.ingredients
    ]


@contextmanager
def _model_folder(ingredient: Ingredient, report: CompatibilityReport, options: MixOptions) -> Iterator[Path]:
    """Download an ingredient, and write it out if its own library would not load it as it is."""
    identity = ingredient.identity()
    index = next(i for i, model in enumerate(report.models) if model.located.reference.identity() == identity)
    require_free_space([(options.hub.cache_folder, bytes_to_fetch(report.models), "the downloads")])
    with _staging_folder() as folder:
        yield materialize(report.models[index], index, report.components, folder, code=options.trust_remote_code)


@contextmanager
def _staging_folder() -> Iterator[Path]:
    """An empty folder in the cache, where there is space for a model, and which the nodes of a cluster share."""
    parent = Cache().root / "staging"
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="scoring-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)
