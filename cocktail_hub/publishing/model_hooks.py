"""What a model loaded from a recipe saves and pushes: the recipe, too, as long as the weights are still that mix."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.errors import PublishError
from cocktail_hub.hub import Hub, Publication
from cocktail_hub.hub.commit import README
from cocktail_hub.merge.output_folder import cut_size
from cocktail_hub.merge.small_files import write_json
from cocktail_hub.publishing.card.header import START, drop_section, merge_readme, split_readme
from cocktail_hub.publishing.verify import changed_weights
from cocktail_hub.recipe.redact import public_recipe
from cocktail_hub.resolve.source import RECIPE_FILE
from cocktail_hub.storage.cache import MANIFEST, CachedMix, manifest_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)
SAMPLES = 16
"""Number of values of each tensor in a fingerprint, about."""
Fingerprint = tuple[object, ...]
Mix = Any
"""A finished mix, `cocktail_hub.Mix`, which is of a room above."""


@dataclass(frozen=True, kw_only=True)
class ModelHooks:
    """The mix behind a model, and what tells whether the model is still that mix."""

    mix: Mix
    """What the model was loaded from."""
    fingerprint: Fingerprint | None
    """The model's fingerprint right after loading; `None` if it was another model than the mix then already."""


def attach(model: Any, mix: Mix, info: Mapping[str, Any], *, trained: bool = False) -> None:
    """Make a model save and push recipe and card of the mix that it was loaded from, until it is trained or changed.

    A model that was `trained` before, that is quantised or, by transformers' loading `info`, has a new head is another
    model than the mix: what it is pushed over loses recipe and card.
    """
    whole = not (trained or info.get("missing_keys") or info.get("mismatched_keys"))
    whole = whole and getattr(model, "hf_quantizer", None) is None
    if whole:
        model.cocktail = mix.recipe.to_dict()
    # our own attribute
    model._cocktail = ModelHooks(mix=mix, fingerprint=_fingerprint(model) if whole else None)  # noqa: SLF001
    model.push_to_hub = MethodType(push_to_hub, model)
    model.save_pretrained = MethodType(save_pretrained, model)


def mix_of(model: Any) -> Mix | None:
    """Return the mix that a model was loaded from, unless the model is another one by now."""
    hooks: ModelHooks | None = getattr(model, "_cocktail", None)
    if hooks is None or hooks.fingerprint is None or hooks.fingerprint != _fingerprint(model):
        return None
    return hooks.mix


def push_to_hub(model: Any, repo_id: str, **kwargs: Any) -> Any:
    """Publish weights, tokenizer, recipe and card in one commit, with the keywords of `cocktail_hub.publish`.

    Those of transformers' own `push_to_hub` are among them.
    A model that has changed since it was mixed is pushed as transformers pushes any model, without the recipe.

    Raises:
        PublishError: the Hub did not accept it, or `as_` is given for a changed model.
    """
    if mix := mix_of(model):
        tags = kwargs.pop("tags", None) or ()
        kwargs["tags"] = [*(model.model_tags or ()), *([tags] if isinstance(tags, str) else tags)]
        return mix.push_to_hub(repo_id, **kwargs)
    if "as_" in kwargs:
        raise PublishError(
            "The model has changed since it was mixed, so the recipe no longer describes it.\n"
            "Whoever loads the recipe would get other weights.\n"
            "Push it without `as_`, as an ordinary model, or load the recipe again and push that."
        )
    logger.warning("The model has changed since it was mixed, so it is pushed without the recipe.")
    info = type(model).push_to_hub(model, repo_id, **kwargs)
    revision = getattr(info, "pr_revision", None) or kwargs.get("revision")
    remove_recipe(repo_id, kwargs.get("token"), revision, drop_section)
    return info


def remove_recipe(
    repo_id: str, token: str | bool | None, revision: str | None, other_card: Callable[[str], str]
) -> None:
    """Remove from a repo what it says of a mix, unless the weights that were pushed to it are that mix.

    `other_card` returns the card that takes the place of a card of ours.

    Raises:
        PublishError: the Hub did not accept it.
    """
    hub = Hub(token=token)
    publication = hub.make_repo(
        Publication(
            repo_id=repo_id,
            files={},
            readme=lambda text: other_card(text) if text and START in text else text or "",
            message="Remove the recipe, which no longer describes the weights",
            revision=revision,
        )
    )
    if changed_weights(hub.files(publication.repo_id, hub.resolve(publication.repo_id, revision))):
        hub.remove_recipe(publication, (RECIPE_FILE, MANIFEST))


def save_pretrained(
    model: Any, save_directory: str | Path, *args: Any, push_to_hub: bool = False, **kwargs: Any
) -> None:
    """Save as transformers does, with the recipe if the weights are those of the mix, and else without."""
    mix = mix_of(model)
    if mix and not args and (mix.path / MANIFEST).is_file():  # cut into the same files as the mix
        kwargs.setdefault("max_shard_size", cut_size(CachedMix(digest="", path=mix.path)))
    type(model).save_pretrained(model, save_directory, *args, **kwargs)
    if kwargs.get("is_main_process", True):
        keep_true(Path(save_directory), mix)
    if push_to_hub:
        repo_id = kwargs.get("repo_id") or Path(save_directory).name
        known = ("commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags")
        model.push_to_hub(repo_id, **{key: kwargs[key] for key in known if key in kwargs})


def keep_true(folder: Path, mix: Mix | None, *, card: bool = False) -> bool:
    """Make what a folder says of a mix true of the weights that were just saved there; returns whether they are `mix`.

    If they are, bit for bit, they get its recipe and, if wanted, its card; otherwise recipe and card of a mix that
    were there before are removed.
    """
    readme = folder / README
    existing = readme.read_bytes().decode(errors="replace") if readme.is_file() else None
    if mix is None or not _holds(folder, mix):
        if (folder / MANIFEST).is_file():
            (folder / RECIPE_FILE).unlink(missing_ok=True)
            (folder / MANIFEST).unlink()
        if existing and START in existing:
            rest = drop_section(existing)
            readme.write_bytes(rest.encode())
            if "\n" not in split_readme(rest).body.strip():  # no more than the title of the mix
                readme.unlink()
        return False
    mixed = CachedMix(digest="", path=mix.path)
    weights = {path: entry for path, entry in mixed.manifest.items() if path.endswith(".safetensors")}
    write_json(folder / RECIPE_FILE, public_recipe(mix.recipe).to_dict())
    (folder / MANIFEST).write_text(manifest_text(weights, mixed.max_shard_size, mixed.notes), encoding="utf-8")
    if card and (mix.path / README).is_file():
        readme.write_bytes(merge_readme(existing, (mix.path / README).read_text(encoding="utf-8")).encode())
    return True


def _holds(folder: Path, mix: Mix) -> bool:
    """Whether the weight files of a folder are those of a mix.

    The header of a module's file depends on who wrote it: where the tensors are the same, the mix's own file is taken.
    """
    import torch
    from safetensors.torch import load_file

    if not (mix.path / MANIFEST).is_file():
        return False
    mixed = CachedMix(digest="", path=mix.path)
    for path in (path for path in mixed.manifest if "/" in path and path.endswith(".safetensors")):
        if (folder / path).is_file():
            saved, own = load_file(folder / path), load_file(mix.path / path)
            if saved.keys() == own.keys() and all(torch.equal(saved[name], own[name]) for name in own):
                shutil.copyfile(mix.path / path, folder / path)
    return not changed_weights(LocalFiles(folder), mixed=mixed)


def _fingerprint(model: Any) -> Fingerprint:
    """Return configs as text; tensors as shape, dtype, identity, count of in-place changes, and a few values.

    Buffers that are not saved do not count: they are computed anew when a model runs or moves to another device. Nor
    does what transformers notes in the config when it saves a model.
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

    unrelated = ("architectures", "dtype", "use_cache")  # a `Trainer` turns the cache off

    def text(config: Any) -> str:
        values = json.loads(config.to_json_string())
        return json.dumps({key: value for key, value in values.items() if key not in unrelated})

    configs = (model.config, getattr(model, "generation_config", None))
    texts = tuple(text(config) for config in configs if config is not None)
    return (texts, *((name, of(tensor)) for name, tensor in model.state_dict(keep_vars=True).items()))
