"""What a model that was loaded from a recipe knows of it: how to publish itself with recipe and card."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import PublishError
from cocktail_hub.hub import Hub, Publication
from cocktail_hub.pipeline import Mix, publish
from cocktail_hub.publishing.card.header import drop_section
from cocktail_hub.resolve.source import RECIPE_FILE

if TYPE_CHECKING:
    from cocktail_hub.pipeline import Mix

logger = logging.getLogger(__name__)
SAMPLES = 16
"""How many values of each tensor are compared."""
Fingerprint = tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class ModelHooks:
    """The mix behind a model, and how to tell that the model is still that mix."""

    mix: Mix
    """What the model was loaded from."""
    stamps: tuple[Fingerprint, ...]
    """What tells every tensor and config of the model from a changed one."""


def attach(model: Any, mix: Mix, *, complete: bool = True) -> None:
    """Let `model.push_to_hub` publish the mix, as long as nobody trains or changes the model.

    Args:
        model: a model that was loaded from the mix.
        mix: the mix.
        complete: whether all its weights are the mix's; a model with a new head or quantised weights is another one.
    """
    if not complete or getattr(model, "hf_quantizer", None) is not None:
        _disown(model)
        return
    model._cocktail = ModelHooks(mix=mix, stamps=_stamps(model))  # noqa: SLF001 - an attribute of ours
    model.push_to_hub = MethodType(push_to_hub, model)
    model.save_pretrained = MethodType(save_pretrained, model)


def push_to_hub(model: Any, repo_id: str, **kwargs: Any) -> Any:
    """Publish weights, tokenizer, recipe and card in one commit. Takes the keywords of `cocktail_hub.publishing`.

    A model that was trained or changed after it was mixed is no longer that mix: it is pushed as transformers pushes
    any model, without the recipe.

    Raises:
        PublishError: the Hub did not take it, or a changed model is to be published as a recipe.
    """
    attached: ModelHooks = model._cocktail  # noqa: SLF001 - an attribute of ours
    if attached.stamps == _stamps(model):
        mix = attached.mix
        return publish(mix if mix.path.is_dir() else mix.recipe, repo_id, **kwargs)
    if "as_" in kwargs:
        raise PublishError(
            "The model has changed since it was mixed, so the recipe no longer describes it.\n"
            "Whoever loads the recipe would get other weights.\n"
            "Push it without `as_`, as an ordinary model, or load the recipe again and push that."
        )
    logger.warning("The model has changed since it was mixed, so it is pushed without the recipe.")
    _disown(model)
    info = type(model).push_to_hub(model, repo_id, **kwargs)
    publication = Publication(
        repo_id=repo_id,
        files={},
        readme=lambda text: drop_section(text or ""),
        message="Remove the recipe: the weights are no longer its",
        revision=getattr(info, "pr_revision", None) or kwargs.get("revision"),
    )
    Hub(token=kwargs.get("token")).remove_recipe(publication, RECIPE_FILE)
    return info


def save_pretrained(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Save as transformers does; a model that was changed is saved without the recipe."""
    attached: ModelHooks = model._cocktail  # noqa: SLF001 - an attribute of ours
    if attached.stamps != _stamps(model):
        _disown(model)
    return type(model).save_pretrained(model, *args, **kwargs)


def _disown(model: Any) -> None:
    """The weights are not those of the recipe, so the config must not say so."""
    vars(model.config).pop("cocktail", None)


def _stamps(model: Any) -> tuple[Fingerprint, ...]:
    """Tensors by identity, count of in-place changes and a few values; configs by their text.

    Buffers that are not saved are left out: they are computed anew when a model moves to another device, or as it runs.
    """
    configs = (model.config, getattr(model, "generation_config", None))
    texts = tuple(config.to_json_string() for config in configs if config is not None)
    return (texts, *((name, *_stamp(tensor)) for name, tensor in model.state_dict(keep_vars=True).items()))


def _stamp(tensor: Any) -> Fingerprint:
    import torch

    shape = (tuple(tensor.shape), str(tensor.dtype))
    if tensor.is_meta:  # offloaded: put in place for each use, and not trained
        return shape
    changes = 0 if tensor.is_inference() else tensor._version  # noqa: SLF001 - torch has no other name for it
    flat = tensor.detach().reshape(-1)
    some = flat[:: max(1, flat.numel() // SAMPLES)]  # `tensor.data` is changed without being counted
    itself = id(tensor) if isinstance(tensor, torch.nn.Parameter) else None  # moving a model replaces its buffers
    return (*shape, itself, changes, str(some.tolist()))
