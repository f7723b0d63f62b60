"""What the libraries around a loaded mix do: sentence-transformers, Trainers and pipelines.

sentence-transformers takes over the card of the repo that it loaded: of a recipe without weights, or of weights that
may have been trained since. A Trainer uploads a folder and leaves other files of the repo as they are. `pipeline` asks
the Hub for the task, and takes no repo that is for another library.
"""

from __future__ import annotations

import functools
import inspect
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.compat.config import model_kind
from cocktail_hub.errors import CocktailError
from cocktail_hub.hub import Hub
from cocktail_hub.pipeline.mix import publish
from cocktail_hub.publishing.card.header import START, drop_section
from cocktail_hub.publishing.model_hooks import keep_true, mix_of, remove_recipe
from cocktail_hub.resolve.source import RECIPE_FILE, load_recipe_source

if TYPE_CHECKING:
    from collections.abc import Callable


_PIPELINES = {"sentence-similarity": "feature-extraction", "text-ranking": "text-classification"}
"""Hub task -> pipeline of transformers, where it has another name."""


def hook_into(library: Any, **functions: Callable[..., Any]) -> None:
    """Call functions of ours for those of a class or module, with its own one and all arguments. Safe to repeat."""
    for name, ours in functions.items():
        own = getattr(library, name)
        if not hasattr(own, "ours"):
            setattr(library, name, _calling(ours, own))


def _calling(ours: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(own)

    @functools.wraps(own)
    def method(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        (_, model), *rest = given.arguments.items()
        return ours(own, model, **dict(rest))

    method.ours = ours  # type: ignore[attr-defined]
    return method


def save(own: Callable[..., None], model: Any, *, path: str, create_model_card: bool, **given: Any) -> None:
    """Save, with recipe and card of the mix if the weights are still its own, else with the library's own card."""
    mix, loaded_card = mix_of(model.transformers_model), model._model_card_text  # noqa: SLF001 - no public name
    try:
        if START in (loaded_card or ""):
            model._model_card_text = None  # noqa: SLF001
        own(model, path, create_model_card=create_model_card and mix is None, **given)
        if path is None or keep_true(Path(path), mix, card=create_model_card):
            return
        if create_model_card and mix is not None:  # modules other than the transformer were changed
            model._create_model_card(path, given["model_name"])  # noqa: SLF001
    finally:
        model._model_card_text = loaded_card  # noqa: SLF001


def push_to_hub(own: Callable[..., str], model: Any, *, repo_id: str, **given: Any) -> str:
    """Publish the mix if the weights are still its own; else push, and remove what the repo says of a mix."""
    mix = mix_of(model.transformers_model)
    if mix is not None and given["local_model_path"] is None:
        with tempfile.TemporaryDirectory(prefix="cocktail-", ignore_cleanup_errors=True) as folder:
            model.save(folder, model_name=repo_id)
            if (Path(folder) / RECIPE_FILE).is_file():
                return _publish_saved(replace(mix, path=Path(folder)), repo_id, given)
    answer = own(model, repo_id, **given)
    if _is_from_mix(model):
        from sentence_transformers.base.model_card import generate_model_card

        revision = f"refs/pr/{answer.rpartition('/')[2]}" if given["create_pr"] else given["revision"]
        remove_recipe(repo_id, given["token"], revision, lambda _: generate_model_card(model))
    return answer


def _is_from_mix(model: Any) -> bool:
    """Whether a model of transformers or sentence-transformers was loaded from a recipe or a mix, trained or not."""
    card = getattr(model, "_model_card_text", None)
    return hasattr(getattr(model, "transformers_model", model), "_cocktail") or START in (card or "")


def push_trained(
    own: Callable[..., Any], trainer: Any, *, blocking: bool, token: Any, revision: Any, kwargs: Any, **given: Any
) -> Any:
    """Push what a Trainer trained, and remove what the repo says of a mix."""
    info = own(trainer, blocking=blocking, token=token, revision=revision, **given, **kwargs)
    if blocking and _is_from_mix(trainer.model) and trainer.is_world_process_zero():
        args = trainer.args
        remove_recipe(trainer.hub_model_id, token or args.hub_token, revision or args.hub_revision, drop_section)
    return info


def get_task(own: Callable[..., str], model: str, *, token: Any, **given: Any) -> str:
    """Say which pipeline a model is for; of a recipe, that follows from the config of the mix.

    Raises:
        RuntimeError: that is not known, or transformers has no such pipeline.
    """
    try:
        return own(model, token, **given.get("deprecated_kwargs", {}))
    except RuntimeError:
        try:
            source = load_recipe_source(model, Hub(token=token))
        except CocktailError:
            source = None
        if source is None or source.files is None or source.merged:
            raise
    native = source.config.get("native")
    named = model_kind(source.files, {**source.config, **native}).task if native else None
    task = source.recipe.task or named
    supported = import_module("transformers.pipelines").PIPELINE_REGISTRY.get_supported_tasks()
    if (pipeline := _PIPELINES.get(task or "", task)) in supported:
        return str(pipeline)
    known = f"is for '{task}', and transformers has no such pipeline" if task else "does not say what the mix is for"
    raise RuntimeError(
        f"The recipe '{model}' {known}.\nSo the task of the pipeline cannot be inferred.\n"
        f"Name one of {', '.join(supported)} (`pipeline(task, model=...)`), or load it with `AutoCocktailModel`."
    )


def _publish_saved(mix: Any, repo_id: str, given: dict[str, Any]) -> str:
    """Publish with the keywords of sentence-transformers, and return the address of the commit as it does."""
    import huggingface_hub

    exist_ok = given["exist_ok"] or given["create_pr"]
    huggingface_hub.create_repo(repo_id, token=given["token"], private=given["private"], exist_ok=exist_ok)
    wanted = ("private", "token", "revision", "create_pr", "commit_message")
    info = publish(mix, repo_id, **{key: given[key] for key in wanted})
    return str(info.pr_url if given["create_pr"] else info.commit_url)
