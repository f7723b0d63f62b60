"""Recipes as configurations of mergekit (version 0.1.5): what it cannot express is listed, all of it at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe.mergekit import LAYERS
from cocktail_hub.recipe.recipe import Recipe
from cocktail_hub.recipe.tensor_rules import PerTensor

if TYPE_CHECKING:
    from cocktail_hub.recipe.reference import Ingredient, ModelReference

_AGREEING = ("ties", "dare_ties", "della", "breadcrumbs_ties")
_ADDING = ("linear", "task_arithmetic", "dare_linear", "della_linear", "breadcrumbs")
_EACH = ("density", "gamma", "epsilon", "scale")
"""Parameters that are each model's own."""
_DRAWN = ("dare_linear", "dare_ties", "della", "della_linear")


def to_mergekit(recipe: Recipe) -> str:
    """Return a recipe as a configuration; recipes inside it are documents of their own, for `mergekit-multi`.

    Raises:
        RecipeError: it says what mergekit cannot, with everything of that.
    """
    problems: list[str] = []
    documents = _documents(recipe, problems)
    if problems:
        listed = "\n".join(f"- {problem}" for problem in dict.fromkeys(problems))
        raise RecipeError(
            f"A configuration of mergekit cannot express this recipe:\n{listed}\n"
            "mergekit would make another mix.\nChange these settings, or mix the recipe here."
        )
    return yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, width=100)


def _documents(recipe: Recipe, problems: list[str], name: str | None = None) -> list[dict[str, Any]]:
    """Return the documents of the recipes inside a recipe, then its own."""
    before: list[dict[str, Any]] = []
    for reference in recipe.references:
        if reference.recipe is not None and reference.model not in [document.get("name") for document in before]:
            before += _documents(Recipe.from_dict(reference.recipe), problems, reference.model)
    set_keys = {
        "weighting": recipe.weighting is not None,
        "anchor": recipe.anchor is not None,
        "layers": bool(recipe.layers),
        "keep": bool(recipe.keep),
        "missing": bool(recipe.missing),
        "dtype: float64": recipe.dtype == "float64",
        "config": recipe.config not in ("first", recipe.base.model if recipe.base else "")
        and recipe.method != "linear",
        "chat_template": recipe.chat_template != "auto" and not recipe.own_template,
    }
    problems += [f"`{key}` has no counterpart." for key, given in set_keys.items() if given]
    document: dict[str, Any] = {"name": name} if name else {}
    document["merge_method"] = recipe.method
    document |= models_of(recipe, problems)
    if shared := shared_parameters(recipe, problems):
        document["parameters"] = shared
    if recipe.dtype != "auto":  # mergekit computes in `dtype`
        document |= {"dtype": "float32", "out_dtype": recipe.dtype}
    if recipe.own_template:
        document["chat_template"] = recipe.chat_template
    if recipe.tokenizer not in ("first", recipe.config) or recipe.tokens or recipe.pad_to_multiple_of > 1:
        document["tokenizer"] = tokenizer_settings(recipe, problems)
    return [*before, document]


def models_of(recipe: Recipe, problems: list[str]) -> dict[str, Any]:
    """Return base and models, or slices of them."""
    found: dict[str, Any] = {}
    if recipe.base is not None:
        found["base_model"] = _name(recipe.base, problems)
    elif recipe.method == "slerp":
        found["base_model"] = _name(recipe.ingredients[0], problems)
    elif recipe.method == "linear" and recipe.config != "first":
        found["base_model"] = recipe.config
    if recipe.stacked:
        found["slices"] = [{"sources": [_entry(recipe, i, problems)]} for i in recipe.ingredients]
    elif any(reference.layer_range for reference in recipe.references):
        used = [*((recipe.base,) if recipe.base else ()), *recipe.ingredients]
        found["slices"] = [{"sources": [_entry(recipe, i, problems) for i in used]}]
    else:
        found["models"] = [_entry(recipe, ingredient, problems) for ingredient in recipe.ingredients]
    return found


def tokenizer_settings(recipe: Recipe, problems: list[str]) -> dict[str, Any]:
    """Return whose tokens the mix has, and their rules."""
    names = {reference.model: _name(reference, problems) for reference in recipe.references}
    names["first"] = _name(recipe.ingredients[0], problems)
    found: dict[str, Any] = {"source": names.get(recipe.tokenizer, recipe.tokenizer)}
    tokens: dict[str, Any] = {}
    for token, rule in recipe.tokens.items():
        source: Any = {"kind": "zero"} if rule.source == "zero" else names.get(rule.source, rule.source)
        if rule.token:
            source = {"kind": "model_token", "model": source, "token": rule.token}
        tokens[token] = {"source": source} | ({"force": True} if rule.force else {})
    pad = {"pad_to_multiple_of": recipe.pad_to_multiple_of} if recipe.pad_to_multiple_of > 1 else {}
    return found | ({"tokens": tokens} if tokens else {}) | pad


def _name(reference: ModelReference, problems: list[str]) -> str:
    """Return `model@revision`, and `+adapter@revision`."""
    if reference.layer_range and reference.recipe is None and reference.base:
        problems.append(f"`layer_range` of the adapter '{reference.label}'.")
    if reference.recipe is not None:
        return reference.model
    own = f"{reference.model}@{reference.revision}" if reference.revision else reference.model
    return f"{_name(reference.base, problems)}+{own}" if reference.base else own


def _entry(recipe: Recipe, reference: ModelReference | Ingredient, problems: list[str]) -> dict[str, Any]:
    """Return an entry of `models` or `sources`."""
    found: dict[str, Any] = {"model": _name(reference, problems)}
    if reference.layer_range:
        found["layer_range"] = list(reference.layer_range)
    weight = getattr(reference, "weight", None)
    parameters = dict(getattr(reference, "parameters", {}))
    weighed = recipe.method not in ("slerp", "passthrough", "sce", "karcher", "model_stock", "nearswap", "arcee_fusion")
    if weighed and weight is not None:
        parameters = {"weight": weight, **parameters}
    elif recipe.method in ("sce", "karcher", "model_stock") and len(set(map(str, recipe.weights or ()))) > 1:
        problems.append(f"Weights of `{recipe.method}` that differ: it has none there.")
    if parameters:
        found["parameters"] = {name: _number(value, problems) for name, value in parameters.items()}
    return found


def shared_parameters(recipe: Recipe, problems: list[str]) -> dict[str, Any]:
    """Return the parameters that all models share, defaults included, which are others there."""
    values = recipe.every_parameter
    found = {name: _number(value, problems) for name, value in values.items() if name in (*_EACH, "lambda", "t")}
    if "select_topk" in values:
        found["select_topk"] = _number(values["select_topk"], problems)
    if recipe.method == "slerp":
        second = recipe.ingredients[-1].weight
        found["t"] = _number(1.0 if len(recipe.ingredients) == 1 else second, problems)
        if recipe.base is not None or recipe.normalize:
            problems.append("`slerp` between task vectors, or with `normalize`: there it is between models, by `t`.")
    elif recipe.method in _AGREEING:
        found["normalize"] = values["merge"] == "mean"
    elif recipe.method in _ADDING:
        found["normalize"] = recipe.normalize
    if recipe.method in _DRAWN:
        found["rescale"] = values["rescale"] == "l1"
    dense = values.get("density") == 1.0
    differing = {
        "`elect: unweighted`: weights always count there.": values.get("elect") == "unweighted",
        "`trim: model`: there it is by tensor.": values.get("trim") == "model",
        "`exact_k: false`: elements that tie are not all kept there.": values.get("exact_k") is False and not dense,
        "`rescale: inverse`: there it is `l1` or `none`.": values.get("rescale") == "inverse" and not dense,
    }
    problems += [problem for problem, present in differing.items() if present]
    return found


def _number(value: Any, problems: list[str]) -> Any:
    """Return a number, a gradient, or filters."""
    if not isinstance(value, PerTensor):
        return value
    rules: list[dict[str, Any]] = []
    for index, rule in enumerate(value.rules):
        number = list(rule.value) if isinstance(rule.value, tuple) else rule.value
        after = value.rules[index + 1 :]
        if rule.match == LAYERS and isinstance(number, list) and [last.value for last in after] == [number[0]]:
            rules.append({"value": number})  # as it is there: the first number is used after the layers
            break
        pattern = (rule.match or "").strip("*")
        if rule.match and (rule.match != f"*{pattern}*" or any(sign in pattern for sign in "*?[")):
            problems.append(f"The pattern {rule.match!r}: a `filter` is a part of a name, as in '*mlp*'.")
        if isinstance(number, list) and not rule.match and number[0] != number[-1]:
            problems.append(f"The list {number}: after the layers, the first of its numbers is used there.")
        rules.append({"filter": pattern, "value": number} if rule.match else {"value": number})
    return rules[0]["value"] if len(rules) == 1 else rules
