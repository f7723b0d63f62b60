"""Make transformers know recipes: `AutoConfig`, `AutoModel*`, and all that is built on them.

Registering needs transformers' auto classes, and importing those takes seconds. So it is done right after
transformers has loaded them: at once if it has, else as part of that import. `import cocktail_hub` stays cheap,
and the order of the two imports does not matter.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

CONFIG_MODULE = "transformers.models.auto.configuration_auto"
MODEL_MODULE = "transformers.models.auto.modeling_auto"


def register_config(module: ModuleType) -> None:
    """Let `AutoConfig` read `model_type: cocktail`."""
    from cocktail_hub.integrations.config import CocktailConfig

    module.AutoConfig.register(CocktailConfig.model_type, CocktailConfig, exist_ok=True)


def register_models(module: ModuleType) -> None:
    """Let every auto class that loads models take a recipe."""
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    from cocktail_hub.integrations.auto import dispatcher
    from cocktail_hub.integrations.config import CocktailConfig

    found: list[Any] = [value for value in vars(module).values() if isinstance(value, type)]
    for auto_class in (value for value in found if issubclass(value, _BaseAutoModelClass)):
        if auto_class._model_mapping is not None:  # noqa: SLF001 - the only place that tells real auto classes apart
            auto_class.register(CocktailConfig, dispatcher(auto_class), exist_ok=True)


HOOKS = {CONFIG_MODULE: register_config, MODEL_MODULE: register_models}
"""Module of transformers -> what to do once it is loaded."""


class _Loader:
    """The module's own loader, and the registration right after it.

    Not a subclass of `importlib.abc.Loader`: that would take 20 ms to import, each time that anybody imports us.
    """

    def __init__(self, loader: Loader, name: str, finder: _Finder) -> None:
        self._loader, self._name, self._finder = loader, name, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._finder.pending.discard(self._name)  # only now: an import may be interrupted, and begun again
        HOOKS[self._name](module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _Finder:
    """Finds the two modules as anybody would, with the registration added to their loader."""

    def __init__(self) -> None:
        self.pending = set(HOOKS)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname not in self.pending:
            return None
        self.pending.discard(fullname)  # so that the others are asked
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.pending.add(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, fullname, self)  # type: ignore[assignment]
        return spec


def register() -> None:
    """Register now what can be, and the rest as soon as transformers loads it. Safe to repeat."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    for name, hook in HOOKS.items():
        if name in sys.modules:
            finder.pending.discard(name)
            hook(sys.modules[name])
