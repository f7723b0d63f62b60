"""Compute the shares of a recipe whose ingredients have none: find the examples, score, apply the rule."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from cocktail_hub.cache import Cache
from cocktail_hub.errors import SourceError
from cocktail_hub.hub import HubFiles, pin
from cocktail_hub.progress import bar
from cocktail_hub.recipe import canonical_json
from cocktail_hub.standalone import standalone_folder
from cocktail_hub.weigh.examples import load_examples
from cocktail_hub.weigh.losses_cache import LossesCache
from cocktail_hub.weigh.report import evidence_of
from cocktail_hub.weigh.rules import uniform_shares, weigh
from cocktail_hub.weigh.scorer import Candidate, score_all
from cocktail_hub.weigh.settings import ScoringSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cocktail_hub.checking import Checked
    from cocktail_hub.hub import HubOptions
    from cocktail_hub.origin import Origin
    from cocktail_hub.recipe import Ingredient, Weighting
    from cocktail_hub.weigh.examples import Examples
    from cocktail_hub.weigh.losses import Losses, Progress
    from cocktail_hub.weigh.rules import Shares
    from cocktail_hub.weigh.settings import Dtype, Pooling

EXAMPLE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Files of a Hub dataset that examples are read from."""


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
class Scene:
    """What scoring needs to know besides the recipe."""

    checked: Checked
    """The models that go into the mix, every ingredient among them."""
    origin: Origin
    """Where the recipe was found: examples may lie beside it."""
    hub: HubOptions
    """How to talk to the Hub."""
    device: str = "auto"
    """Where models are run: `auto`, `cpu` or `cuda`."""
    settings: ScoringSettings | None = None
    """How losses are computed; `None`: as the recipe's `weighting` says."""
    trust_remote_code: bool = False
    """Whether model code from the ingredients' repos may run."""


def weigh_ingredients(ingredients: Sequence[Ingredient], weighting: Weighting, scene: Scene) -> Weighed:
    """Compute a share per ingredient.

    Losses are kept: an ingredient that was scored on the same examples before is not loaded again.

    Args:
        ingredients: pinned, in recipe order, without the anchor.
        weighting: how to compute the shares.
        scene: models, origin and device.

    Raises:
        ScoringError: the examples cannot rank the ingredients; says which example of which model.
        SourceError: the examples cannot be found.
    """
    if weighting.rule == "uniform":
        return Weighed(weights=uniform_shares(len(ingredients)), evidence={"rule": "uniform"})
    settings = scene.settings or _settings(weighting, scene)
    examples = find_examples(weighting, settings.task, scene.origin, scene.hub)
    with ExitStack() as stack:
        candidates = [_candidate(ingredient, scene, stack) for ingredient in ingredients]
        with _progress(len(ingredients)) as on_progress:
            cache = LossesCache(root=Cache().root / "losses")
            losses = score_all(candidates, examples, settings, cache=cache, on_progress=on_progress)
    shares = weigh(losses, rule=weighting.rule, temperature=weighting.temperature)
    evidence = evidence_of(losses, shares, examples=examples, settings=settings)
    return Weighed(weights=shares.weights, evidence=evidence, losses=losses, shares=shares)


def find_examples(weighting: Weighting, task: str, origin: Origin, hub: HubOptions) -> Examples:
    """Read the examples of a recipe: given in it, a file beside it, a file of this machine, or a Hub dataset.

    A recipe from the Hub never reads files of this machine.

    Raises:
        SourceError: there is no such file or dataset.
        ScoringError: an example lacks a key or holds something else than text.
    """
    source: Any = weighting.examples
    if isinstance(source, str):
        source = _example_file(source, weighting, origin, hub)
    return load_examples(source, task, columns=weighting.columns)


def _example_file(name: str, weighting: Weighting, origin: Origin, hub: HubOptions) -> Path:
    beside = str(PurePosixPath(origin.folder, name))
    if isinstance(origin.files, HubFiles):
        if beside in origin.files.sizes:
            return origin.files.path(beside)
    elif Path(name).expanduser().is_file():
        return Path(name).expanduser()
    elif PurePosixPath(name).suffix in EXAMPLE_SUFFIXES:
        raise SourceError(
            f"There is no file of examples at '{name}'.\nThe shares are computed from them.\n"
            "Give an existing path (relative to the recipe file), or a dataset on the Hub such as 'org/name'."
        )
    return _dataset_file(name, weighting, hub)


def _dataset_file(name: str, weighting: Weighting, hub: HubOptions) -> Path:
    """The one file of a Hub dataset that holds the examples."""
    commit = pin(name, weighting.revision, hub, repo_type="dataset")
    files = HubFiles(name, commit, hub, repo_type="dataset")
    found = [path for path in files.sizes if path.endswith(EXAMPLE_SUFFIXES)]
    wanted = [path for path in found if weighting.split is None or weighting.split in PurePosixPath(path).stem.split("-")]
    exact = [path for path in found if path == weighting.split] or wanted
    if len(exact) == 1:
        return files.path(exact[0])
    listing = ", ".join(found) or "none"
    raise SourceError(
        f"Which file of the dataset '{name}' holds the examples? {len(exact)} fit (`split: {weighting.split}`).\n"
        f"It has these files: {listing}.\nName one of them, or its split, as `weighting.split`."
    )


def _settings(weighting: Weighting, scene: Scene) -> ScoringSettings:
    return ScoringSettings(
        task=scene.checked.recipe.task or scene.checked.kind.task,
        max_length=weighting.max_length,
        neg_number=weighting.negatives,
        batch_size=weighting.batch_size,
        seed=weighting.seed,
        chat_template=weighting.chat_template,
        pooling=cast("Pooling | None", weighting.pooling),
        normalize=weighting.normalize,
        device=scene.device,
        dtype=cast("Dtype", weighting.dtype),
        trust_remote_code=scene.trust_remote_code,
    )


def _candidate(ingredient: Ingredient, scene: Scene, stack: ExitStack) -> Candidate:
    """An ingredient whose folder is looked for only if it has to be scored."""
    identity = ingredient.identity()
    models = scene.checked.models
    index = next(i for i, model in enumerate(models) if model.located.pin.identity() == identity)

    def folder() -> Path:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="cocktail-", ignore_cleanup_errors=True))
        return standalone_folder(models[index], index, scene.checked.parts, Path(scratch))

    return Candidate(name=ingredient.label, identity=canonical_json(identity), folder=folder)


@contextmanager
def _progress(count: int) -> Iterator[Callable[[Progress], None]]:
    """One bar over all ingredients, in hundredths of an ingredient."""
    with bar("score", 100 * count, unit="%") as advance:
        reached = 0

        def move(progress: Progress) -> None:
            nonlocal reached
            part = progress.done / progress.total if progress.total else 0.0
            now = int(100 * (progress.ingredient + part))
            advance(max(0, now - reached))
            reached = max(now, reached)

        yield move
