"""Every merge method, by the name that a recipe gives it. A new one is a function and a line here."""

from __future__ import annotations

from types import MappingProxyType

from cocktail_hub.methods import combinations, sce, ties
from cocktail_hub.methods.contract import Method, Parameter, Round

_LAMBDA = Parameter(default=1.0, meaning="the factor on the merged task vector")
_DENSITY = Parameter(
    default=0.2,
    low=0.0,
    high=1.0,
    low_open=True,
    per_model=True,
    meaning="the fraction of each task vector that is kept, the largest",
)
_EXACT_K = Parameter(default=False, meaning="whether of elements that tie for the last place only the first are kept")
_TOPK = Parameter(
    default=1.0, low=0.0, high=1.0, low_open=True, meaning="the fraction of elements selected, by largest variance"
)

METHODS: dict[str, Method] = {
    "linear": Method(
        summary="sum of weight * model",
        coefficients=combinations.linear,
        convex=True,
        negative=True,
        source="LM-Cocktail, arXiv:2311.13534; Model soups, arXiv:2203.05482",
    ),
    "task_arithmetic": Method(
        summary="base + lambda * sum of weight * (model - base)",
        coefficients=combinations.task_arithmetic,
        base="needed",
        negative=True,
        fewest=1,
        parameters=MappingProxyType({"lambda": _LAMBDA}),
        source="Editing models with task arithmetic, arXiv:2212.04089",
    ),
    "ties": Method(
        summary="base + lambda * mean of the trimmed task vectors that agree with the elected sign",
        coefficients=ties.single,
        combine=ties.ties,
        measure=(Round(statistic="kth_largest", values=ties.magnitudes, rank=ties.kept_counts, exact="exact_k"),),
        base="needed",
        fewest=1,
        parameters=MappingProxyType({"density": _DENSITY, "lambda": _LAMBDA, "exact_k": _EXACT_K}),
        source="TIES-Merging, arXiv:2306.01708",
    ),
    "slerp": Method(
        summary="a point on the arc between two models, or from a base between two task vectors",
        coefficients=combinations.slerp,
        measure=(Round(statistic="gram"),),
        base="optional",
        convex=True,
        most=2,
        source="Animating rotation with quaternion curves, doi:10.1145/325165.325242",
    ),
    "model_stock": Method(
        summary="base + t * sum of weight * (model - base), t from the angles between task vectors",
        coefficients=combinations.model_stock,
        measure=(Round(statistic="gram"),),
        base="needed",
        convex=True,
        source="Model Stock, arXiv:2403.19522",
    ),
    "sce": Method(
        summary="base + mean of the task vectors' selected elements that agree in sign, weighted by energy",
        combine=sce.sce,
        measure=(
            Round(statistic="kth_largest", values=sce.variances, rank=sce.selected_counts),
            Round(statistic="sum", values=sce.squares),
        ),
        base="needed",
        parameters=MappingProxyType({"select_topk": _TOPK}),
        source="FuseChat, arXiv:2408.07990",
    ),
}
"""Name in a recipe -> the method."""
