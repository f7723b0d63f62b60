"""What a model that was loaded from a recipe knows of it: how to publish itself with recipe and card."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any

from cocktail_hub.publishing import publish

if TYPE_CHECKING:
    from cocktail_hub.pipeline import Mix

logger = logging.getLogger(__name__)
Stamp = tuple[str, int, int, tuple[int, ...], str]


@dataclass(frozen=True, kw_only=True)
class Attached:
    """The mix behind a model, and how to tell that the model is still that mix."""

    mix: Mix
    """What the model was loaded from."""
    stamps: tuple[Stamp, ...]
    """Name, identity, number of in-place changes, shape and dtype of every parameter and buffer."""


def attach(model: Any, mix: Mix) -> None:
    """Let `model.push_to_hub` publish the mix, as long as nobody trains or changes the model."""
    model._cocktail = Attached(mix=mix, stamps=_stamps(model))  # noqa: SLF001 - an attribute of ours
    model.push_to_hub = MethodType(push_to_hub, model)


def push_to_hub(model: Any, repo_id: str, **kwargs: Any) -> Any:
    """Publish weights, tokenizer, recipe and card in one commit. Takes the keywords of `cocktail_hub.publish`.

    A model that was trained or changed after it was mixed is no longer that mix: it is pushed as transformers pushes
    any model, without the recipe.
    """
    attached: Attached = model._cocktail  # noqa: SLF001 - an attribute of ours
    if attached.stamps == _stamps(model):
        return publish(attached.mix, repo_id, **kwargs)
    logger.warning("The model has changed since it was mixed, so it is pushed without the recipe.")
    model.config.cocktail = None
    return type(model).push_to_hub(model, repo_id, **kwargs)


def _stamps(model: Any) -> tuple[Stamp, ...]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return tuple((name, id(t), t._version, tuple(t.shape), str(t.dtype)) for name, t in tensors)  # noqa: SLF001
