"""Write one ingredient as a folder that its own library loads as what goes into the mix.

Most are such folders already. An adapter, or a checkpoint whose tensors were matched by name, would load as something
else, and code in another repo would be the newest, so it is written out before it is scored.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

from cocktail_hub.merge.run import fetch
from cocktail_hub.merge.small_files import bring_code, relocated, write_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cocktail_hub.compat import Component, Model
    from cocktail_hub.hub import HubFiles


def materialize(
    model: Model,
    index: int,
    components: tuple[Component, ...],
    scratch: Path,
    *,
    code: Mapping[str, HubFiles] | None = None,
) -> Path:
    """Return the folder of one ingredient, written into `scratch` if its own files do not load as they are mixed.

    Args:
        model: the ingredient.
        index: of its mapping in each component.
        components: the folders with weights, from the compatibility report.
        scratch: an empty folder.
        code: repos of Python code that the model's configs may name, at their commits; `None` if no code is trusted,
            that of the model's own repo included.
    """
    roots = fetch([model], code=code is not None)[0]
    mappings = [component.mappings[index].with_own_rows for component in components]
    changed = model.adapted or model.located.reference.layer_range or not all(mapping.plain for mapping in mappings)
    if not changed and not code:
        return roots.body
    from cocktail_hub.merge.engine.execute import execute
    from cocktail_hub.merge.plan import ComponentInput, plan_merge

    for opened in (model.body, model.located):
        for path in (*opened.model_files.carried, *(opened.model_files.code if code is not None else ())):
            write_file(scratch / relocated(path, opened.model_files.main, model.main), opened.files.read(path))
    for files in (code or {}).values():
        bring_code(files, scratch / model.main)
    if not changed:
        for path in model.body.model_files.weight_files:
            (scratch / path).parent.mkdir(parents=True, exist_ok=True)
            (scratch / path).symlink_to(roots.body / path)
        return scratch
    if model.adapted or model.located.reference.layer_range or "transformers_weights" in model.config:
        # with the class and labels that the adapter was trained with, and the weights written here
        config = {key: value for key, value in model.config.items() if key != "transformers_weights"}
        text = json.dumps(config, indent=2)
        (scratch / model.main / "config.json").write_text(text, encoding="utf-8")
    inputs = [
        ComponentInput(folder=component.folder, specs=(mapping.specs,), models=(model.name,))
        for component, mapping in zip(components, mappings, strict=True)
    ]
    with ExitStack() as stack:
        readers = [[roots.open(mapping)] for mapping in mappings]
        for (reader,) in readers:
            stack.callback(reader.close)
        execute(plan_merge(inputs, weights=[1.0]), readers, scratch)
    return scratch
