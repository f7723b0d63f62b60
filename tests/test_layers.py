"""Modules import from lower layers only, inside functions and for types, too. The table is the architecture."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import cocktail_hub

PACKAGE = Path(cocktail_hub.__file__).parent
LAYERS = [
    # ground: no knowledge of models
    {"errors", "version", "progress", "rounding", "sync", "hashes", "testing"},
    {"space", "cluster", "method_table", "order_statistic", "checkpoint"},
    {"sums"},
    {"ties"},
    {"cache", "hub", "methods", "recipe"},
    # one concern each: values in, values out
    {"options", "origin", "folder_digest", "weigh", "card", "merge"},
    {"resolve", "place", "sent_journal"},
    {"checking", "example_files"},
    {"assemble", "fetching", "shard_inputs", "loading"},
    {"engine", "standalone", "provenance"},
    {"weighing", "sending"},
    {"shares_cache"},
    # the story, and what is told with it
    {"pipeline"},
    {"recipe_repo", "scoring", "preview", "verification", "legacy"},
    {"publishing"},
    {"lowdisk", "attached", "configuration"},
    # what transformers and people meet
    {"auto"},
    {"registration"},
    {"__init__"},
    {"demo"},
    {"cli"},
]
"""From the bottom up; whatever stands in one row does not know the others of that row."""
UPWARD = {
    ("pipeline", "publishing"): "`Mix.push_to_hub` is a method of what publishing takes",
    ("publishing", "lowdisk"): "`publish(low_disk=True)` hands over to what builds on publishing",
}
"""The only imports that point up, each inside a function, each with its reason."""
HEAVY = {
    "torch": {"checkpoint", "cluster", "demo", "legacy", "merge", "methods", "order_statistic", "rounding", "weigh"},
    "transformers": {"configuration", "demo"},
    "sentence_transformers": {"demo"},
    "peft": set(),
    "ray": set(),
}
"""Library that takes seconds to import -> who may import it at its top; the others do so where they need it."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


@dataclass(frozen=True)
class Import:
    """One import statement."""

    source: str
    """Unit that imports."""
    module: str
    """Full name of what is imported."""
    inside: bool
    """Whether it stands in a function."""
    typing: bool
    """Whether it is for type checkers only."""

    @property
    def target(self) -> str | None:
        """Unit of ours that is imported."""
        first, _, rest = self.module.partition(".")
        return (rest.partition(".")[0] or "__init__") if first == "cocktail_hub" else None


def unit_of(path: Path) -> str:
    """Module or sub-package directly under the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> list[Import]:
    """Every import of a file, wherever it stands."""
    found: list[Import] = []

    def visit(node: ast.AST, *, inside: bool, typing: bool) -> None:
        for child in ast.iter_child_nodes(node):
            names = []
            if isinstance(child, ast.ImportFrom):
                whole = child.module == "cocktail_hub"
                names = [f"{child.module}.{a.name}" if whole else str(child.module) for a in child.names]
            elif isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            for name in names:
                submodule = name.partition(".")[2].partition(".")[0]
                public = name.startswith("cocktail_hub.") and submodule not in UNITS
                found.append(Import(unit_of(path), "cocktail_hub" if public else name, inside, typing))
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            visit(child, inside=inside or function, typing=typing or checking)

    visit(ast.parse(path.read_text(encoding="utf-8")), inside=False, typing=False)
    return found


UNITS = {unit_of(path) for path in PACKAGE.rglob("*.py")}
IMPORTS = [found for path in sorted(PACKAGE.rglob("*.py")) for found in imports_of(path)]


def test_every_module_has_a_layer() -> None:
    assert LEVEL.keys() == UNITS
    assert sum(map(len, LAYERS)) == len(LEVEL)


def test_every_import_points_down() -> None:
    wrong = {
        f"{found.source} -> {found.target}"
        for found in IMPORTS
        if found.target and found.target != found.source and LEVEL[found.target] >= LEVEL[found.source]
        if (found.source, found.target) not in UPWARD
    }
    assert not wrong


def test_the_exceptions_are_few_are_used_and_stand_inside_functions() -> None:
    used = [found for found in IMPORTS if (found.source, found.target) in UPWARD]
    assert {(found.source, found.target) for found in used} == UPWARD.keys()
    assert all(found.inside or found.typing for found in used)


def test_heavy_libraries_are_imported_where_they_are_needed() -> None:
    for library, allowed in HEAVY.items():
        at_top = {
            found.source
            for found in IMPORTS
            if found.module.partition(".")[0] == library and not found.inside and not found.typing
        }
        assert at_top <= allowed, library


def test_the_hub_for_tests_knows_nothing_of_the_package() -> None:
    assert {found.target for found in IMPORTS if found.source == "testing"} <= {None, "testing"}
