"""One folder of weights, as every ingredient has it: under the same names and in the same shapes, or refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.layout import Layout, read_layout
from cocktail_hub.checkpoint.quantized import refuse_quantized
from cocktail_hub.checkpoint.source import open_source
from cocktail_hub.errors import IncompatibleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cocktail_hub.checkpoint.source import TensorSource
    from cocktail_hub.checkpoint.spec import TensorSpec
    from cocktail_hub.recipe import Recipe
    from cocktail_hub.resolve import Located


@dataclass(frozen=True, kw_only=True)
class Part:
    """A folder of the checkpoint with weights, and how each model's files hold it."""

    folder: str
    """Posix path of the folder in the mix, '' for its root."""
    layouts: tuple[Layout, ...]
    """What each model's weight files look like, in the order of the check's `models`."""
    notes: tuple[str, ...] = ()
    """What people should know of, a sentence each."""

    @property
    def specs(self) -> tuple[Mapping[str, TensorSpec], ...]:
        """Tensor -> shape and dtype, for each model, under the names of the mix."""
        return tuple(layout.specs for layout in self.layouts)

    def open(self, roots: Sequence[Path]) -> list[TensorSource]:
        """Open every model's weights, given the folder each was downloaded to."""
        return [open_source(layout, root) for layout, root in zip(self.layouts, roots, strict=True)]


def read_part(
    recipe: Recipe, folder: str, models: Sequence[Located], bodies: Sequence[Located], config: Mapping[str, Any]
) -> Part:
    layouts = tuple(read_layout(body.files, folder) for body in bodies)
    for layout in layouts:
        refuse_quantized(bodies[0].files, folder, {}, layout.specs)
    first = layouts[0]
    for other in layouts[1:]:
        for name, spec in first.specs.items():
            if name not in other.specs:
                if spec.dtype in ("I64", "I32"):
                    continue
                raise IncompatibleError(f"Cannot mix '{other.name}': it lacks '{name}'.", model=other.name, tensor=name)
            if other.specs[name].shape != spec.shape:
                raise IncompatibleError(
                    f"Cannot mix '{other.name}': '{name}' has shape {list(other.specs[name].shape)}, but {list(spec.shape)} in '{first.name}'.",
                    model=other.name,
                    tensor=name,
                )
    return Part(folder=folder, layouts=layouts)
