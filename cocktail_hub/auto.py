"""AutoCocktailModel, and what lets transformers' own auto classes take a recipe."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.attached import attach
from cocktail_hub.cache import Cache
from cocktail_hub.checking import check
from cocktail_hub.errors import RecipeError
from cocktail_hub.hub import HubOptions
from cocktail_hub.loading import AUTO_CLASS_OF_TASK, config_of, load_model, main_folder
from cocktail_hub.origin import Origin, origin_of_config, read_origin
from cocktail_hub.pipeline import Mix, MixOptions, mix_origin
from cocktail_hub.publishing import publish
from cocktail_hub.resolve import resolve

if TYPE_CHECKING:
    from cocktail_hub.configuration import CocktailConfig

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
        hub = HubOptions(
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
            "AutoCocktailModel is made by `AutoCocktailModel.from_pretrained(recipe)`, as transformers' auto classes are."
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
        config = kwargs.pop("config", None)
        request = Request.of(kwargs)
        origin = read_origin(
            config if config is not None else source,
            request.options.hub,
            revision=request.revision,
            subfolder=request.subfolder,
        )
        if origin.merged:
            return _load_merged(origin, source, task, model_args, kwargs)
        return _load_mix(origin, request, _Loader(task=task, args=model_args, push_to_hub=push_to_hub, cache=cache))


@dataclass(frozen=True, kw_only=True)
class _Loader:
    """What to load the finished folder with."""

    task: str | None = None
    auto_class: Any = None
    args: tuple[Any, ...] = ()
    push_to_hub: str | None = None
    cache: bool = True

    def __call__(self, folder: Path, **kwargs: Any) -> Any:
        if self.auto_class is None:
            return load_model(folder, self.task, *self.args, **kwargs)
        return self.auto_class.from_pretrained(str(main_folder(folder)), *self.args, **kwargs)


def _load_mix(origin: Origin, request: Request, loader: _Loader) -> Any:
    keywords = _labels(origin) | request.loading
    if loader.cache:
        made = mix_origin(origin, request.options)
        return _finished(loader(made.path, **keywords), made, request, loader)
    if "offload_folder" in keywords:
        raise RecipeError("`cache=False` cannot go with `offload_folder`: offloaded weights are read from the cache.")
    root = Cache().root
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, ignore_cleanup_errors=True) as folder:
        made = mix_origin(origin, request.options, output=Path(folder) / "mix")
        return _finished(loader(made.path, **keywords), made, request, loader)


def _finished(loaded: Any, made: Mix, request: Request, loader: _Loader) -> Any:
    """Give the model its origin: the name it was loaded by, and a `push_to_hub` that publishes card and recipe."""
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    model.config.name_or_path = made.name
    attach(model, made)
    if loader.push_to_hub:
        publish(made, loader.push_to_hub, options=request.options)
    return loaded


def _labels(origin: Origin) -> dict[str, Any]:
    """Labels that the recipe's config.json gives; the ingredients may have none."""
    labels = origin.config.get("id2label")
    if not labels:
        return {}
    id2label = {int(key): str(value) for key, value in labels.items()}
    return {"id2label": id2label, "label2id": {value: key for key, value in id2label.items()}}


def _load_merged(origin: Origin, source: Any, task: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The weights are there: load them with the class that the config names, as anybody would."""
    import transformers

    names = origin.config.get("architectures") or ["AutoModel"]
    name = AUTO_CLASS_OF_TASK[task] if task else names[0]
    return getattr(transformers, name, transformers.AutoModel).from_pretrained(str(source), *args, **kwargs)


class Dispatcher:
    """Stands in transformers' auto classes for `model_type: cocktail`; the models it returns are ordinary ones."""

    auto_class: Any = None
    """The auto class that this one is registered with."""

    @classmethod
    def from_pretrained(cls, source: Any, *model_args: Any, config: CocktailConfig, **kwargs: Any) -> Any:
        """What `AutoModelX.from_pretrained(recipe)` ends in."""
        request = Request.of(config.take_overrides() | kwargs)
        origin = origin_of_config(config, source, request.options.hub, request.revision, request.subfolder)
        return _load_mix(origin, request, _Loader(auto_class=cls._class_for(config), args=model_args))

    @classmethod
    def _from_config(cls, config: CocktailConfig, **kwargs: Any) -> Any:
        """What `AutoModelX.from_config(config)` ends in: random weights, in the shape of the mix."""
        checked = check(resolve(config.to_recipe(), HubOptions()), HubOptions())
        return cls.auto_class.from_config(config_of(checked.config), **kwargs)

    @classmethod
    def _class_for(cls, config: CocktailConfig) -> Any:
        """The auto class itself; but `AutoModel` of an encoder-only checkpoint would add a decoder (T5)."""
        import transformers

        name = (config.architectures or [""])[0]
        if cls.auto_class.__name__ == "AutoModel" and name.endswith("EncoderModel"):
            return getattr(transformers, name)
        return cls.auto_class


def dispatcher(auto_class: Any) -> type[Dispatcher]:
    """The class to register with one auto class."""
    return type(f"CocktailFor{auto_class.__name__}", (Dispatcher,), {"auto_class": auto_class})
