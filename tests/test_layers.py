"""Imports point downward, module by module, in functions and for types, too. The list of rooms is the architecture."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import cocktail_hub

PACKAGE = Path(cocktail_hub.__file__).parent
ROOMS = (
    ("errors", "version"),
    ("methods",),
    ("storage",),
    ("recipe",),
    ("hub",),
    ("checkpoint",),
    ("resolve",),
    ("compat",),
    ("merge",),
    ("evaluation",),
    ("search",),
    ("publishing",),
    ("pipeline",),
    ("integrations",),
    ("__init__",),
    ("cli",),
)
"""From the ground up. A module imports from its own room and from the rooms below it."""
STANDS_APART = "testing"
"""The Hub for tests: it imports nothing of ours, and any room may import it."""
TORCH = {"checkpoint", "evaluation", "merge", "methods"}
"""Rooms with modules that import torch at their top; the others import it where they need it."""
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
MODULES = {
    ".".join(("cocktail_hub", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imported(node: ast.AST) -> list[str]:
    """Modules that one statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        inner = (f"{node.module}.{alias.name}" for alias in node.names)
        return [name if name in MODULES else str(node.module) for name in inner]
    return []


def imports_of(module: str) -> set[str]:
    """Modules of ours that a module imports, wherever the statement is."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return {name for node in ast.walk(tree) for name in imported(node) if name in MODULES} - {module}


def room_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


IMPORTS = {module: imports_of(module) for module in MODULES}


def test_every_module_is_in_a_room() -> None:
    assert {room_of(module) for module in MODULES} == {*FLOOR, STANDS_APART}


@pytest.mark.parametrize("module", [module for module in MODULES if room_of(module) != STANDS_APART])
def test_a_module_imports_from_its_own_room_and_those_below(module: str) -> None:
    rooms = {room_of(name) for name in IMPORTS[module]} - {STANDS_APART}
    assert not [room for room in rooms if FLOOR[room] > FLOOR[room_of(module)]]


def test_there_is_no_circle_of_imports() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_hub_for_tests_imports_nothing_of_the_package() -> None:
    apart = {module for module in MODULES if room_of(module) == STANDS_APART}
    assert all(IMPORTS[module] <= apart for module in apart)


@pytest.mark.whole
@pytest.mark.parametrize("library", ["torch", "transformers", "sentence_transformers", "peft", "ray"])
def test_heavy_libraries_are_imported_where_they_are_needed(library: str) -> None:
    at_top = {
        module
        for module, path in MODULES.items()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if library in {name.partition(".")[0] for name in imported(node)}
    }
    if library == "torch":
        at_top = {module for module in at_top if room_of(module) not in TORCH}
    if library == "transformers":
        at_top -= {"cocktail_hub.integrations.config", "cocktail_hub.integrations.callback"}  # subclasses
    assert not [module for module in at_top if not module.startswith("cocktail_hub.cli.demo.")]
