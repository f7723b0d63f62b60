"""What a model loaded from a recipe pushes and saves: the recipe, too, as long as the model is still that mix."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import PublishError
from cocktail_hub.hub import Hub, Publication
from cocktail_hub.pipeline import publish
from cocktail_hub.publishing.card.header import drop_section
from cocktail_hub.resolve.source import RECIPE_FILE

if TYPE_CHECKING:
    from cocktail_hub.pipeline import Mix

logger = logging.getLogger(__name__)
SAMPLES = 16
"""Number of values of each tensor in a fingerprint, about."""
Fingerprint = tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class ModelHooks:
    """The mix behind a model, and what tells whether the model is still that mix."""

    mix: Mix
    """What the model was loaded from."""
    fingerprint: Fingerprint
    """The model's fingerprint right after loading."""


def attach(model: Any, mix: Mix, *, complete: bool = True) -> None:
    """Make `push_to_hub` of a model publish the mix that it was loaded from, until it is trained or changed.

    A model that is not `complete`, because it has a new head, or that is quantised is another model than the mix.
    """
    if not complete or getattr(model, "hf_quantizer", None) is not None:
        _forget_recipe(model)
        return
    model._cocktail = ModelHooks(mix=mix, fingerprint=_fingerprint(model))  # noqa: SLF001 - our own attribute
    model.push_to_hub = MethodType(push_to_hub, model)
    model.save_pretrained = MethodType(save_pretrained, model)


def push_to_hub(model: Any, repo_id: str, **kwargs: Any) -> Any:
    """Publish weights, tokenizer, recipe and card in one commit, with the keywords of `cocktail_hub.publish`.

    A model that has changed since it was mixed is pushed as transformers pushes any model, without the recipe.

    Raises:
        PublishError: the Hub did not accept it, or `as_` is given for a changed model.
    """
    hooks: ModelHooks = model._cocktail  # noqa: SLF001 - our own attribute
    if hooks.fingerprint == _fingerprint(model):
        return publish(hooks.mix if hooks.mix.path.is_dir() else hooks.mix.recipe, repo_id, **kwargs)
    if "as_" in kwargs:
        raise PublishError(
            "The model has changed since it was mixed, so the recipe no longer describes it.\n"
            "Whoever loads the recipe would get other weights.\n"
            "Push it without `as_`, as an ordinary model, or load the recipe again and push that."
        )
    logger.warning("The model has changed since it was mixed, so it is pushed without the recipe.")
    _forget_recipe(model)
    info = type(model).push_to_hub(model, repo_id, **kwargs)
    publication = Publication(
        repo_id=repo_id,
        files={},
        readme=lambda text: drop_section(text or ""),
        message="Remove the recipe, which no longer describes the weights",
        revision=getattr(info, "pr_revision", None) or kwargs.get("revision"),
    )
    Hub(token=kwargs.get("token")).remove_recipe(publication, RECIPE_FILE)
    return info


def save_pretrained(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Save as transformers does, without the recipe if the model has changed since it was mixed."""
    hooks: ModelHooks = model._cocktail  # noqa: SLF001 - our own attribute
    if hooks.fingerprint != _fingerprint(model):
        _forget_recipe(model)
    return type(model).save_pretrained(model, *args, **kwargs)


def _forget_recipe(model: Any) -> None:
    vars(model.config).pop("cocktail", None)


def _fingerprint(model: Any) -> Fingerprint:
    """Return configs as text; tensors as shape, dtype, identity, count of in-place changes, and a few values.

    Buffers that are not saved do not count: they are computed anew when a model runs or moves to another device.
    """
    import torch

    def of(tensor: torch.Tensor) -> Fingerprint:
        shape = (tuple(tensor.shape), str(tensor.dtype))
        if tensor.is_meta:  # offloaded: loaded for each use, and not trained
            return shape
        changes = 0 if tensor.is_inference() else tensor._version  # noqa: SLF001 - torch has no public name for it
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // SAMPLES)]  # changes of `tensor.data` are not counted
        identity = id(tensor) if isinstance(tensor, torch.nn.Parameter) else None  # moving a model replaces its buffers
        return (*shape, identity, changes, str(some.tolist()))

    configs = (model.config, getattr(model, "generation_config", None))
    texts = tuple(config.to_json_string() for config in configs if config is not None)
    return (texts, *((name, of(tensor)) for name, tensor in model.state_dict(keep_vars=True).items()))
