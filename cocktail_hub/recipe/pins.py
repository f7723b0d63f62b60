"""Write commits into the text of a recipe, and leave everything else in it, comments included, as it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe.files import load_yaml
from cocktail_hub.recipe.reference import COMMIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def pin_text(text: str, commits: Mapping[tuple[str, str | None], str]) -> str:
    """Return the text of a recipe with other commits.

    Args:
        text: YAML or JSON.
        commits: model and revision, as the recipe has them -> the commit to write. The branch that the revision names
            is kept as `requested`.

    Raises:
        RecipeError: the text has no `ingredients` of its own: it is a config, or another tool's configuration.
    """
    load_yaml(text)  # bounds what a stranger's text expands to
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode) or "ingredients" not in {key.value for key, _ in root.value}:
        raise RecipeError(
            "The file has no `ingredients` at its top, so commits cannot be written into it.\n"
            "It is a config, or a configuration of another tool.\nWrite the recipe to a new file: `-o recipe.yaml`."
        )
    edits = {edit for node in _models(root) for edit in _edits(text, node, commits)}
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _models(recipe: yaml.MappingNode) -> Iterator[Any]:
    """Yield the node of every model in a recipe."""
    for key, value in recipe.value:
        for node in value.value if key.value == "ingredients" else [value] if key.value in ("base", "anchor") else ():
            yield node
            if isinstance(node, yaml.MappingNode):
                inner = [inner for name, inner in node.value if name.value == "recipe"]
                yield from _models(inner[0] if inner else node)  # an adapter has a `base`


def _edits(text: str, node: Any, commits: Mapping[tuple[str, str | None], str]) -> Iterator[tuple[int, int, str]]:
    """Yield the start and end of what is replaced in the text, and what it is replaced by."""
    values = {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {"model": node}
    if "model" not in values:
        return
    place = values["model"]
    model, _, asked = place.value.partition("@")
    given = values["revision"].value if "revision" in values else asked or None
    commit = commits.get((model, given)) or commits.get((model, given or "main"))
    if commit is None:
        return
    start, end = place.start_mark.index, place.end_mark.index
    as_json, flow = text.lstrip().startswith("{"), not isinstance(node, yaml.MappingNode) or bool(node.flow_style)
    gap = ", " if flow else "\n" + " " * node.value[0][0].start_mark.column
    branch = "main" if given is None or COMMIT.fullmatch(given) else given
    new = {"revision": commit} | ({} if "requested" in values else {"requested": branch})
    pairs = [f'"{key}": "{value}"' if as_json else f"{key}: {value}" for key, value in new.items()]
    name = text[start:end].replace(f"@{asked}", "") if asked else text[start:end]
    if node is place:
        yield (
            start,
            end,
            "{" + gap.join([f'"model": {json.dumps(model)}' if as_json else f"model: {name}", *pairs]) + "}",
        )
        return
    if "revision" in values:
        old = values["revision"]
        yield old.start_mark.index, old.end_mark.index, json.dumps(commit) if as_json else commit
        pairs = pairs[1:]
    if asked or pairs:
        yield start, end, gap.join([name, *pairs])
