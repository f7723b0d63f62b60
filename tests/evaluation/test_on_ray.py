"""Scoring on a real local Ray of two workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from models import published

from cocktail_hub import score
from cocktail_hub.evaluation.on_ray import demand_of
from cocktail_hub.merge.engine.ray_cluster import Cluster, Demand
from cocktail_hub.merge.options import MixOptions

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.testing import LoopbackHub

pytestmark = [
    pytest.mark.whole,
    pytest.mark.ray,
    pytest.mark.timeout(900),  # one file after the other has a Ray
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]


def test_ingredients_are_scored_on_workers_with_the_same_losses(
    ray: Any, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [{"input": "the cat", "output": "sat on the mat"}, {"input": "a dog", "output": "ran in the park"}]
    recipe = {
        "ingredients": [{"model": entry["model"]} for entry in published("llama").recipe["ingredients"]],
        "weighting": {"rule": "softmax", "examples": examples},
    }
    found = {}
    for engine in ("ray", "threads"):
        monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / engine))  # no losses from the other one
        found[engine] = score(recipe, options=MixOptions(engine=engine))
    assert [losses.mean for losses in found["ray"].losses] == pytest.approx(
        [losses.mean for losses in found["threads"].losses], rel=1e-6
    )
    assert found["ray"].recipe.weights == pytest.approx(found["threads"].recipe.weights, rel=1e-5)


@pytest.mark.parametrize(("device", "cards", "gpus"), [("auto", 2, 1), ("cuda", 1, 1), ("auto", 0, 0), ("cpu", 2, 0)])
def test_an_ingredient_is_scored_on_a_gpu_where_there_are_any(device: str, cards: int, gpus: int) -> None:
    resources = {"CPU": 4.0, "GPU": float(cards)}
    found = SimpleNamespace(
        nodes=lambda: [{"Alive": True, "Resources": resources}], cluster_resources=lambda: resources
    )
    demand = demand_of(Cluster(found, own=False), device)
    assert demand == Demand(cpus=4, gpus=gpus)
