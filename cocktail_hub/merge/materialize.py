"""One ingredient as a folder that its own library loads.

Most lie on the disk like that already. An adapter, or a checkpoint whose tensors had to be matched by name, would load
as something else than what goes into the mix; such a one is written out, so that what is scored is what is mixed.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

from cocktail_hub.merge.download import fetch
from cocktail_hub.merge.small_files import moved

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.compat import Component, Model


def materialize(
    model: Model, index: int, components: tuple[Component, ...], scratch: Path, *, code: bool = False
) -> Path:
    """Give the folder of one ingredient, written into `scratch` if its files are not loadable as they are.

    Args:
        model: the ingredient.
        index: its place among the views of each part.
        components: the folders with weights, as checked.
        scratch: an empty folder; written to only when it has to be.
        code: whether the model's own Python files are wanted, too.
    """
    roots = fetch([model], code=code)[0]
    if not model.adapted and all(component.mappings[index].plain for component in components):
        return roots.body
    from cocktail_hub.merge.engine.execute import execute
    from cocktail_hub.merge.plan import ComponentInput, plan_merge

    for place in (model.body, model.located):
        for path in (*place.model_files.carried, *(place.model_files.code if code else ())):
            target = scratch / moved(path, place.model_files.main, model.main)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(place.files.read(path))
    if model.adapted:  # with the class and labels that the adapter was trained with
        text = json.dumps(dict(model.config), indent=2)
        (scratch / model.main / "config.json").write_text(text, encoding="utf-8")
    mappings = [component.mappings[index] for component in components]
    inputs = [
        ComponentInput(folder=component.folder, specs=(mapping.specs,), models=(model.name,))
        for component, mapping in zip(components, mappings, strict=True)
    ]
    with ExitStack() as opened:
        sources = [[roots.open(mapping)] for mapping in mappings]
        for (source,) in sources:
            opened.callback(source.close)
        execute(plan_merge(inputs, weights=[1.0]), sources, scratch)
    return scratch
