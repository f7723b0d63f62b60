"""`AutoCocktailModel`, and the classes that let transformers' own auto classes load a recipe."""

from __future__ import annotations

import inspect
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.model_files import read_model_files
from cocktail_hub.errors import CocktailError, RecipeError
from cocktail_hub.evaluation.load_check import tried_here
from cocktail_hub.evaluation.loading import (
    auto_class_name,
    config_of,
    keywords_for,
    load_model,
    model_folder,
    narrowed,
)
from cocktail_hub.hub import Hub, HubFiles
from cocktail_hub.hub.commit import README
from cocktail_hub.merge.options import MixOptions
from cocktail_hub.pipeline.mix import Mix, cached_mix, mix, prepare, publish
from cocktail_hub.publishing.model_hooks import attach
from cocktail_hub.publishing.verify import CHANGED, changed_weights, refuse_changed
from cocktail_hub.recipe import as_resolved
from cocktail_hub.resolve.source import (
    RECIPE_FILE,
    RecipeSource,
    load_recipe_source,
    source_of_config,
    with_weights_given,
)
from cocktail_hub.storage.cache import MANIFEST, Cache

if TYPE_CHECKING:
    from cocktail_hub.integrations.config import CocktailConfig

logger = logging.getLogger(__name__)
_DROPPED = ("_from_auto", "_from_pipeline", "adapter_kwargs", "code_revision", "proxies", "_commit_hash")
"""Keywords that the auto classes add, or that only concern the recipe's repo."""


Load = Callable[[Mix, dict[str, Any]], tuple[Any, dict[str, Any]]]
"""Loads a finished mix with the keywords of `from_pretrained`; returns the model and transformers' loading info."""


def split_keywords(keywords: Mapping[str, Any]) -> tuple[MixOptions, dict[str, Any], dict[str, Any]]:
    """Split the keywords of transformers' `from_pretrained`.

    Returns:
        How to make the mix; `revision` and `subfolder` of the recipe; and the rest, for whoever loads the mix.
    """
    rest = {key: value for key, value in keywords.items() if key not in _DROPPED}
    hub = Hub(
        token=rest.pop("token", None),
        local_files_only=bool(rest.pop("local_files_only", False)),
        cache_dir=rest.pop("cache_dir", None),
        force_download=bool(rest.pop("force_download", False)),
    )
    options = MixOptions(hub=hub, trust_remote_code=bool(rest.get("trust_remote_code")))
    place = {"revision": rest.pop("revision", None), "subfolder": rest.pop("subfolder", None) or ""}
    return options, place, rest


class AutoCocktailModel:
    """Loads a recipe as the transformers model that it describes; used through `from_pretrained` only."""

    def __init__(self) -> None:
        raise OSError(
            "AutoCocktailModel is created by `AutoCocktailModel.from_pretrained(recipe)`, like the auto classes of "
            "transformers."
        )

    @classmethod
    def from_pretrained(
        cls,
        source: Any,
        *model_args: Any,
        weights: Sequence[float] | None = None,
        task: str | None = None,
        push_to_hub: str | None = None,
        cache: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Download, score if weights are open, merge, cache and load.

        Args:
            source: a recipe repo on the Hub, a merged repo, a folder, a YAML or JSON file, a `Recipe`, a mapping, a
                `CocktailConfig` or a list of models.
            *model_args: for the model's own constructor.
            weights: one per model, when `source` is a list of models.
            task: Hub task, e.g. `text-generation`, that chooses the class; `None`: the ingredients' own class.
            push_to_hub: repo to publish the merged model to.
            cache: whether to keep the merged weights for the next time.
            **kwargs: every keyword of transformers' `from_pretrained`, with its meaning there; `revision` and
                `subfolder` are those of the recipe's repo, and `token` is used for the ingredients, too.

        Returns:
            A model of an ordinary class of transformers; a tuple with `output_loading_info=True`, as in transformers.

        Raises:
            CocktailError: says what is wrong and how to fix it.
        """
        if task is not None:
            auto_class_name(task)  # refuse an unknown task before anything is downloaded
        if getattr(kwargs.get("config"), "model_type", None) == "cocktail":
            source = kwargs.pop("config")
        if getattr(source, "model_type", None) == "cocktail":
            kwargs = source.take_overrides() | kwargs
        options, place, keywords = split_keywords(kwargs)
        found = load_recipe_source(with_weights_given(source, weights), options.hub, **place)

        def load(made: Mix, keywords: dict[str, Any]) -> Any:
            return load_model(made.path, task, *model_args, **keywords)

        return _load(found, options, keywords, load, cache=cache, push_to_hub=push_to_hub)


def _load(
    source: RecipeSource,
    options: MixOptions,
    keywords: dict[str, Any],
    load: Load,
    *,
    cache: bool = True,
    push_to_hub: str | None = None,
) -> Any:
    """Find or make the mix, load it, and make the model push card and recipe as well."""
    with ExitStack() as stack:
        changed: tuple[str, ...] = ()
        if source.merged:
            made, changed = _published_mix(source, options)
            if push_to_hub:
                refuse_changed(source, changed)
        else:
            prepared = prepare(source, options)
            stack.enter_context(tried_here())
            found = mix(prepared) if cache else cached_mix(prepared)
            if found is None:
                root = Cache().root / "staging"  # `cocktail cache prune` removes what a killed process leaves there
                root.mkdir(parents=True, exist_ok=True)
                folder = stack.enter_context(tempfile.TemporaryDirectory(dir=root, ignore_cleanup_errors=True))
                found = mix(prepared, output=Path(folder) / "mix")
            made = stack.enter_context(found.kept(options))
        model, info = load(made, {**keywords_for(made.labels, keywords), "output_loading_info": True})
        if not cache and "disk" in (getattr(model, "hf_device_map", None) or {}).values():
            raise RecipeError(
                "`cache=False` cannot be combined with weights that are offloaded to the disk: they are read from the "
                "cache.\nRemove `cache=False`, or give the model more memory."
            )
        model.name_or_path = model.config.name_or_path = made.name
        attach(model, made, info, trained=bool(changed))
        if push_to_hub:
            publish(made, push_to_hub, options=options)
    return (model, info) if keywords.get("output_loading_info") else model


def _published_mix(source: RecipeSource, options: MixOptions) -> tuple[Mix, tuple[str, ...]]:
    """Return a mix that was published with its weights, after downloading what its repo has of them.

    Whether these are still the weights that were mixed is compared, and how they differ returned as well.
    """
    files = source.files
    if isinstance(files, HubFiles):
        wanted = [path for path in files.sizes if PurePosixPath(path).is_relative_to(source.folder)]
        if not source.folder:
            model_files = read_model_files(files)
            ours = {RECIPE_FILE, MANIFEST, README} & files.sizes.keys()
            wanted = [*model_files.needed, *(model_files.code if options.trust_remote_code else ()), *ours]
        root = files.download(wanted)
    elif isinstance(files, LocalFiles):
        root = files.root
    if changed := changed_weights(files, source.folder):
        logger.warning("'%s' was %s: %s. It is loaded as it is, without its recipe.", source.name, CHANGED, changed[0])
    recipe = as_resolved(source.recipe)
    return Mix(path=root / source.folder, recipe=recipe, report={"cached": True}, name=source.name), changed


class Dispatcher:
    """Registered with an auto class of transformers for `model_type: cocktail`; returns ordinary models."""

    auto_class: Any = None
    """The auto class that this one is registered with."""

    @classmethod
    def from_pretrained(cls, source: Any, *model_args: Any, config: CocktailConfig, **kwargs: Any) -> Any:
        """Load a recipe for `AutoModelX.from_pretrained(recipe)`.

        Raises:
            CocktailError: says what is wrong and how to fix it.
        """
        options, place, keywords = split_keywords(config.take_overrides() | kwargs)
        auto_class = narrowed(cls.auto_class, (config.architectures or [""])[0])

        def load(made: Mix, keywords: dict[str, Any]) -> Any:
            folder = model_folder(made.path, place["subfolder"])
            return auto_class.from_pretrained(str(folder), *model_args, **keywords)

        try:
            return _load(source_of_config(config, source, options.hub, **place), options, keywords, load)
        except CocktailError as error:
            # `pipeline()` takes every OSError, ValueError and RuntimeError for a wrong class, tries the next one, and
            # hides the message. A plain CocktailError is none of them. No keyword tells that `pipeline()` is calling.
            if any(
                frame.frame.f_globals.get("__name__") == "transformers.pipelines.base" for frame in inspect.stack(0)
            ):
                raise CocktailError(str(error)) from error
            raise

    @classmethod
    def _from_config(cls, config: CocktailConfig, **kwargs: Any) -> Any:
        """Return a model with random weights in the shape of the mix, for `AutoModelX.from_config(config)`."""
        options = MixOptions(hub=Hub(token=kwargs.pop("token", None), cache_dir=kwargs.pop("cache_dir", None)))
        prepared = prepare(config, options, digests=False, recall=False)
        report = prepared.check()
        overrides = keywords_for(prepared.source.labels, config.take_overrides())
        native = type(config_of(report.config)).from_dict(dict(report.config), **overrides)
        return cls.auto_class.from_config(native, **kwargs)
