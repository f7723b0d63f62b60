"""Figures of an evaluation in the Hub's own form, `model-index`, which it shows beside a model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import PublishError
from cocktail_hub.recipe import as_resolved

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cocktail_hub.recipe import Recipe


def hub_results(found: Mapping[str, Any], recipe: Recipe, task: str, repo_id: str) -> list[dict[str, Any]]:
    """The figures of the mix of a recipe, with their intervals, by whom and with which version.

    Args:
        found: what `cocktail eval --json` prints.
        recipe: that is published.
        task: Hub task of the mix.
        repo_id: of the repo; its owner vouches for the figures.

    Raises:
        PublishError: no model of the evaluation is this mix.
    """
    own = None if recipe.weights is None else as_resolved(recipe).digest
    names = [name for name, digest in found["mixes"].items() if digest == own]
    if not names:
        raise PublishError(
            "The results have no figures of this mix.\nFigures of another mix would say nothing of it.\n"
            "Measure the recipe that you publish, with weights: `cocktail eval RECIPE ... --json > results.json`."
        )
    source = {
        "name": f"Measured by {repo_id.partition('/')[0]} with cocktail_hub {found['version']}",
        "url": f"https://huggingface.co/{repo_id}",
    }

    def each(results: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        for result in results:
            metrics = []
            for metric, figure in result["models"][names[0]].items():
                low, high = figure["interval"]
                metrics.append(
                    {
                        "type": re.sub(r"\W+", "_", metric.lower()).strip("_"),
                        "name": f"{metric}, 95 % interval {low:.4g} to {high:.4g}, {figure['count']} examples",
                        "value": round(figure["value"], 6),
                    }
                )
            slug = re.sub(r"[^\w.-]+", "-", result["name"]).strip("-")
            dataset = {"type": slug, "name": f"{result['name']} ({result['source']})"}
            yield {"task": {"type": task}, "dataset": dataset, "metrics": metrics, "source": source}
            yield from each(result.get("parts", []))

    return list(each(found["results"]))
