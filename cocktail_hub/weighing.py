"""Compute the shares of a recipe whose ingredients have none: find the examples, score, apply the rule."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cocktail_hub.assemble import TOKENIZER_FILES, carry_over
from cocktail_hub.cache import Cache
from cocktail_hub.example_files import locate_examples
from cocktail_hub.fetching import bytes_to_fetch
from cocktail_hub.hashes import sha256_of
from cocktail_hub.progress import bar
from cocktail_hub.recipe import canonical_json
from cocktail_hub.space import require_room
from cocktail_hub.standalone import standalone_folder
from cocktail_hub.weigh.examples import load_examples
from cocktail_hub.weigh.losses_cache import LossesCache
from cocktail_hub.weigh.model import pick_device
from cocktail_hub.weigh.on_ray import score_on_ray
from cocktail_hub.weigh.report import evidence_of
from cocktail_hub.weigh.rules import require_enough, uniform_shares, weigh
from cocktail_hub.weigh.scorer import Candidate, score_all
from cocktail_hub.weigh.settings import ScoringSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cocktail_hub.checking import Checked
    from cocktail_hub.hub import HubOptions
    from cocktail_hub.origin import Origin
    from cocktail_hub.recipe import Ingredient, Weighting
    from cocktail_hub.weigh.losses import Losses, Progress
    from cocktail_hub.weigh.rules import Shares
    from cocktail_hub.weigh.settings import Dtype, Pooling


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
    engine: str = "threads"
    """`threads`: one ingredient after the other, here; `ray`: side by side on a cluster."""


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
        RecipeError: a recipe from the Hub names examples on this machine.
    """
    if weighting.rule == "uniform":
        return Weighed(weights=uniform_shares(len(ingredients)), evidence={"rule": "uniform"})
    settings = scene.settings or _settings(weighting, scene)
    found = locate_examples(weighting, scene.origin, scene.hub)
    examples = load_examples(found.content, settings.task, columns=weighting.columns)
    require_enough(len(examples.rows), weighting.temperature)
    if scene.engine != "ray" and settings.device != "auto":
        pick_device(settings.device)
    with ExitStack() as stack:
        scratch = stack.enter_context(closing(_Scratch(keep=scene.engine == "ray")))
        small = scratch.fresh()
        losses = score_all(
            [_candidate(ingredient, scene, scratch) for ingredient in ingredients],
            examples,
            settings,
            tokenizer=_tokenizer(scene, small),
            cache=LossesCache(root=Cache().root / "losses"),
            on_progress=stack.enter_context(_progress(len(ingredients))),
            run=score_on_ray if scene.engine == "ray" else None,
        )
    shares = weigh(losses, rule=weighting.rule, temperature=weighting.temperature)
    evidence = evidence_of(losses, shares, examples=examples, settings=settings)
    evidence["examples"] |= found.to_dict()
    return Weighed(weights=shares.weights, evidence=evidence, losses=losses, shares=shares)


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


def _candidate(ingredient: Ingredient, scene: Scene, scratch: _Scratch) -> Candidate:
    """An ingredient whose folder is looked for only if it has to be scored."""
    identity = ingredient.identity()
    models = scene.checked.models
    index = next(i for i, model in enumerate(models) if model.located.pin.identity() == identity)

    def folder() -> Path:
        require_room([(scene.hub.cache_folder, bytes_to_fetch(models), "the downloads")])
        return standalone_folder(
            models[index], index, scene.checked.parts, scratch.next(), code=scene.trust_remote_code
        )

    return Candidate(name=ingredient.label, identity=canonical_json(identity), folder=folder)


def _tokenizer(scene: Scene, folder: Path) -> Candidate:
    """The tokenizer that the mix will have, so that every ingredient is asked the same. Its content is its name."""
    carry_over(scene.checked, folder, code=scene.trust_remote_code)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    contents = {name: sha256_of(path) for name, path in sorted(files.items()) if _of_tokenizer(name)}
    main = folder / scene.checked.models[scene.checked.first].main
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
            part = progress.done / progress.total if progress.total else 0.0
            now = int(100 * (progress.ingredient + part))
            advance(max(0, now - reached))
            reached = max(now, reached)

        yield move
