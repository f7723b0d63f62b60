"""AutoCocktailModel, and what lets transformers' own auto classes take a recipe."""

from __future__ import annotations

import inspect
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.model_files import read_model_files
from cocktail_hub.errors import CocktailError, RecipeError
from cocktail_hub.evaluation.loading import (
    auto_class_name,
    config_of,
    keywords_for,
    load_model,
    model_folder,
    narrowed,
)
from cocktail_hub.hub import Hub, HubFiles
from cocktail_hub.integrations.model_hooks import attach
from cocktail_hub.merge.options import MixOptions
from cocktail_hub.pipeline import Mix, cached_mix, mix_prepared, prepare, publish
from cocktail_hub.recipe import as_resolved
from cocktail_hub.resolve.source import RECIPE_FILE, RecipeSource, load_recipe_source, source_of_config
from cocktail_hub.storage.cache import Cache

if TYPE_CHECKING:
    from cocktail_hub.integrations.config import CocktailConfig

_DROPPED = ("_from_auto", "_from_pipeline", "adapter_kwargs", "code_revision", "proxies", "_commit_hash")
"""Keywords that the auto classes add or that concern the recipe's repo alone."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The keywords of one `from_pretrained`, sorted by whom they concern."""

    options: MixOptions
    """Those about the Hub and the making of the mix."""
    revision: str | None
    """Of the recipe's repo."""
    subfolder: str
    """Of the recipe's repo."""
    loading: dict[str, Any] = field(default_factory=dict)
    """Everything else: they reach the loader of the mix as they are."""

    @classmethod
    def of(cls, kwargs: dict[str, Any]) -> Request:
        """Sort the keywords of transformers' `from_pretrained`."""
        rest = {key: value for key, value in kwargs.items() if key not in _DROPPED}
        token = rest.pop("token", None)
        hub = Hub(
            token=token,
            local_files_only=bool(rest.pop("local_files_only", False)),
            cache_dir=rest.pop("cache_dir", None),
            force_download=bool(rest.pop("force_download", False)),
        )
        trusted = bool(rest.get("trust_remote_code"))
        return cls(
            options=MixOptions(hub=hub, trust_remote_code=trusted),
            revision=rest.pop("revision", None),
            subfolder=rest.pop("subfolder", None) or "",
            loading=rest,
        )


class AutoCocktailModel:
    """Loads a recipe as the ordinary transformers model that it describes. Made by `from_pretrained` only."""

    def __init__(self) -> None:
        raise OSError(
            "AutoCocktailModel is made by `AutoCocktailModel.from_pretrained(recipe)`, like the auto classes of "
            "transformers."
        )

    @classmethod
    def from_pretrained(
        cls,
        source: Any,
        *model_args: Any,
        task: str | None = None,
        push_to_hub: str | None = None,
        cache: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Download, score if the shares are open, merge, cache, load.

        Args:
            source: a recipe repo on the Hub, a merged repo, a folder, a YAML or JSON file, a `Recipe`, a mapping or a
                `CocktailConfig`.
            *model_args: for the model's own constructor.
            task: Hub task, e.g. `text-generation`, that chooses the class; `None`: the ingredients' own class.
            push_to_hub: publish the merged model to this repo, too.
            cache: whether to keep the merged weights for the next time.
            **kwargs: every keyword of transformers' `from_pretrained`, with its meaning there; `revision` and
                `subfolder` are those of the recipe's repo, `token` counts for the ingredients, too.

        Returns:
            A model of an ordinary class of transformers; with `output_loading_info=True` a tuple, as there.

        Raises:
            CocktailError: says what is wrong and how to fix it.
        """
        if task is not None:
            auto_class_name(task)  # refuse a task that nobody knows before anything is downloaded
        if getattr(kwargs.get("config"), "model_type", None) == "cocktail":
            source = kwargs.pop("config")
        if getattr(source, "model_type", None) == "cocktail":
            kwargs = source.take_overrides() | kwargs
        request = Request.of(kwargs)
        origin = load_recipe_source(source, request.options.hub, revision=request.revision, subfolder=request.subfolder)
        return _load(origin, request, _Loader(task=task, args=model_args, push_to_hub=push_to_hub, cache=cache))


@dataclass(frozen=True, kw_only=True)
class _Loader:
    """What to do with the finished folder."""

    task: str | None = None
    """Hub task that the caller chose."""
    auto_class: Any = None
    """Class of transformers that the caller chose; `None`: the one that fits."""
    args: tuple[Any, ...] = ()
    """For the model's own constructor."""
    push_to_hub: str | None = None
    """Repo to publish to, too."""
    cache: bool = True
    """Whether the folder is to stay."""

    def __call__(self, made: Mix, part: str, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The model, and what transformers says of how its weights came about."""
        keywords = {**keywords_for(made.labels, keywords), "output_loading_info": True}
        if self.auto_class is None:
            loaded = load_model(made.path, self.task, *self.args, **keywords)
        else:
            loaded = self.auto_class.from_pretrained(str(model_folder(made.path, part)), *self.args, **keywords)
        model, info = loaded
        return model, info


def _load(origin: RecipeSource, request: Request, loader: _Loader) -> Any:
    if origin.merged:
        return _finished(_fetched(origin, code=request.options.trust_remote_code), origin, request, loader)
    prepared = prepare(origin, request.options)
    if loader.cache:
        return _finished(mix_prepared(prepared), origin, request, loader)
    if found := cached_mix(prepared):
        return _finished(found, origin, request, loader)
    root = Cache().root / "staging"  # where `prune` looks for what a killed process left
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, ignore_cleanup_errors=True) as folder:
        made = mix_prepared(prepared, output=Path(folder) / "mix")
        return _finished(made, origin, request, loader)


def _fetched(origin: RecipeSource, *, code: bool) -> Mix:
    """A mix that somebody published: its weights are there, and nothing is mixed. `code`: with its own Python files."""
    files = origin.files
    if isinstance(files, HubFiles):
        inside = [path for path in files.sizes if PurePosixPath(path).is_relative_to(origin.folder)]
        model_files = read_model_files(files)
        wanted = inside if origin.folder else [*model_files.needed, *(model_files.code if code else ()), RECIPE_FILE]
        root = files.download(wanted)
    elif isinstance(files, LocalFiles):
        root = files.root
    return Mix(path=root / origin.folder, recipe=as_resolved(origin.recipe), report={"cached": True}, name=origin.name)


def _finished(made: Mix, origin: RecipeSource, request: Request, loader: _Loader) -> Any:
    """Load a finished folder, and give the model its name and a `push_to_hub` that publishes card and recipe."""
    keywords = dict(request.loading)
    wants_info = keywords.pop("output_loading_info", False)
    model, info = loader(made, origin.folder, keywords)
    if not loader.cache and "disk" in (getattr(model, "hf_device_map", None) or {}).values():
        raise RecipeError(
            "`cache=False` cannot go with weights that are offloaded to the disk: they are read from the cache.\n"
            "Leave `cache=False` out, or give the model more memory."
        )
    model.name_or_path = model.config.name_or_path = made.name
    attach(model, made, complete=not info.get("missing_keys") and not info.get("mismatched_keys"))
    if loader.push_to_hub:
        publish(made, loader.push_to_hub, options=request.options)
    return (model, info) if wants_info else model


class Dispatcher:
    """Stands in transformers' auto classes for `model_type: cocktail`; the models it returns are ordinary ones."""

    auto_class: Any = None
    """The auto class that this one is registered with."""

    @classmethod
    def from_pretrained(cls, source: Any, *model_args: Any, config: CocktailConfig, **kwargs: Any) -> Any:
        """What `AutoModelX.from_pretrained(recipe)` ends in.

        Raises:
            CocktailError: says what is wrong and how to fix it.
        """
        request = Request.of(config.take_overrides() | kwargs)
        try:
            origin = source_of_config(config, source, request.options.hub, request.revision, request.subfolder)
            return _load(origin, request, _Loader(auto_class=cls._class_for(config), args=model_args))
        except CocktailError as error:
            if not _in_pipeline():
                raise
            # `pipeline()` takes every OSError, ValueError and RuntimeError for a wrong class, tries the next ones, and
            # buries what was said. A plain CocktailError is none of them: the merge is tried once, and says why.
            raise CocktailError(str(error)) from error

    @classmethod
    def _from_config(cls, config: CocktailConfig, **kwargs: Any) -> Any:
        """What `AutoModelX.from_config(config)` ends in: random weights, in the shape of the mix."""
        options = MixOptions(hub=Hub(token=kwargs.pop("token", None), cache_dir=kwargs.pop("cache_dir", None)))
        prepared = prepare(config, options, digests=False, recall=False)
        report = prepared.check()
        chosen = keywords_for(prepared.source.labels, config.take_overrides())
        native = type(config_of(report.config)).from_dict(dict(report.config), **chosen)
        return cls.auto_class.from_config(native, **kwargs)

    @classmethod
    def _class_for(cls, config: CocktailConfig) -> Any:
        return narrowed(cls.auto_class, (config.architectures or [""])[0])


def _in_pipeline() -> bool:
    """Whether transformers' `pipeline()` is the caller. It says so in a keyword, which never arrives here."""
    return any(frame.frame.f_globals.get("__name__") == "transformers.pipelines.base" for frame in inspect.stack(0))


def dispatcher(auto_class: Any) -> type[Dispatcher]:
    """The class to register with one auto class."""
    return type(f"CocktailFor{auto_class.__name__}", (Dispatcher,), {"auto_class": auto_class})
