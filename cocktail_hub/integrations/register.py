"""Register recipes with transformers: `AutoConfig`, `AutoModel*`, and everything built on them.

That needs transformers' auto classes, whose import takes seconds. So it happens right after transformers has loaded
them: now if it has, else as part of that import. `import cocktail_hub` stays cheap, and the order of the two imports
does not matter.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType


def register_config(module: ModuleType) -> None:
    """Make `AutoConfig` read `model_type: cocktail`."""
    from cocktail_hub.integrations.config import CocktailConfig

    module.AutoConfig.register(CocktailConfig.model_type, CocktailConfig, exist_ok=True)


def register_models(module: ModuleType) -> None:
    """Make every auto class that loads models accept a recipe."""
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    from cocktail_hub.integrations.auto import Dispatcher
    from cocktail_hub.integrations.config import CocktailConfig

    found: list[Any] = [value for value in vars(module).values() if isinstance(value, type)]
    for auto_class in (value for value in found if issubclass(value, _BaseAutoModelClass)):
        if auto_class._model_mapping is not None:  # noqa: SLF001 - only real auto classes have one
            own = type(f"CocktailFor{auto_class.__name__}", (Dispatcher,), {"auto_class": auto_class})
            auto_class.register(CocktailConfig, own, exist_ok=True)


HOOKS = {
    "transformers.models.auto.configuration_auto": register_config,
    "transformers.models.auto.modeling_auto": register_models,
}
"""Module of transformers -> what to do once it is loaded."""


class _Finder:
    """Finds the modules of `HOOKS` as the other finders do, and makes their loaders register recipes afterwards."""

    def __init__(self) -> None:
        self.pending = set(HOOKS)

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        del path, target
        if fullname not in self.pending:
            return None
        self.pending.discard(fullname)  # so that the other finders are used
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.pending.add(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self.pending.discard(fullname)  # not before: an import may be interrupted and repeated
            HOOKS[fullname](module)
            self.leave()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # each module has a loader of its own
        return spec

    def leave(self) -> None:
        """Stop taking part in imports once nothing is pending."""
        if not self.pending and self in sys.meta_path:
            sys.meta_path.remove(self)


def register() -> None:
    """Register with the modules that are loaded, and with the others when transformers loads them. Safe to repeat."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    for name, hook in HOOKS.items():
        if name in sys.modules:
            finder.pending.discard(name)
            hook(sys.modules[name])
    finder.leave()
