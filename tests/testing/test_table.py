"""Which address leads where."""

from __future__ import annotations

import pytest

from cocktail_hub.testing.routes import files, lfs, refs, repositories, trees
from cocktail_hub.testing.routes.table import ROUTES


@pytest.mark.parametrize(
    ("method", "path", "answer", "parts"),
    [
        ("GET", "/api/models/a/b", repositories.info, {"kinds": "models", "repo": "a/b"}),
        ("GET", "/api/models/b", repositories.info, {"kinds": "models", "repo": "b"}),
        ("GET", "/api/datasets", repositories.listing, {"kinds": "datasets"}),
        ("GET", "/api/models/a/b/tree/main", trees.tree, {"kinds": "models", "repo": "a/b", "rev": "main"}),
        ("GET", "/api/models/a/tree/tree/x%2Fy/p/q", trees.tree, {"repo": "a/tree", "rev": "x/y", "path": "p/q"}),
        ("GET", "/a/b/resolve/refs%2Fpr%2F1/c%20d/e", files.resolve, {"repo": "a/b", "path": "c d/e"}),
        ("GET", "/a/b/resolve/refs/pr/1/c", files.resolve, {"rev": "refs/pr/1", "path": "c"}),
        ("GET", "/datasets/a/b/resolve/main/c", files.resolve, {"kinds": "datasets/", "repo": "a/b"}),
        ("POST", "/a/b.c.git/info/lfs/objects/batch", lfs.batch, {"kinds": "", "repo": "a/b.c"}),
        ("DELETE", "/api/models/a/b/branch/dev%2Fx", refs.delete_branch, {"name": "dev/x"}),
    ],
)
def test_an_address_leads_to_one_route(method: str, path: str, answer: object, parts: dict[str, str]) -> None:
    found, named = next((route.answer, got) for route in ROUTES if (got := route.parts(method, path)) is not None)
    assert found is answer
    assert parts.items() <= named.items()


@pytest.mark.parametrize("path", ["/api/models/a/b/c/d", "/_cdn/file/../../etc", "/_cdn/file/xyz", "/", "/a/b/c"])
def test_other_addresses_lead_nowhere(path: str) -> None:
    assert not [route for route in ROUTES if route.parts("GET", path) is not None]
