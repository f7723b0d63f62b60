"""Every merge method, by the name that a recipe gives it. A new one is a function and a line here."""

from __future__ import annotations

from types import MappingProxyType

from cocktail_hub.methods import combinations, fusion, sce, sparse, ties
from cocktail_hub.methods.contract import Method, Parameter, Round

_LAMBDA = Parameter(default=1.0, meaning="the factor on the merged task vector")
_EXACT_K = Parameter(default=False, meaning="whether of elements that tie for the last place only the first are kept")
_TOPK = Parameter(
    default=1.0, low=0.0, high=1.0, low_open=True, meaning="the fraction of elements selected, by largest variance"
)
_ELECT = Parameter(
    default="unweighted", choices=("unweighted", "weighted"), meaning="what the sign of each element is elected by"
)
_MERGE = Parameter(default="mean", choices=("mean", "sum"), meaning="what is taken of the elements that agree")
_RESCALE = Parameter(
    default="inverse",
    choices=("inverse", "none", "l1"),
    meaning="what kept elements are divided by: their chance, or what keeps the sum of magnitudes",
)
_GAMMA = Parameter(default=0.01, low=0.0, high=1.0, per_model=True, meaning="the fraction dropped as too large")
_EPSILON = Parameter(
    default=0.07,
    low=0.0,
    high=1.0,
    per_model=True,
    meaning="how much the chance of the smallest in a row is below `density`, and of the largest above it",
)


def _density(default: float, kept: str) -> Parameter:
    meaning = f"the fraction of each task vector that is kept, {kept}"
    return Parameter(default=default, low=0.0, high=1.0, low_open=True, per_model=True, meaning=meaning)


_SCOPE = Parameter(default="tensor", choices=("tensor", "model"), meaning="what the fraction is counted over")
_VOTE = {"lambda": _LAMBDA, "elect": _ELECT, "merge": _MERGE}
_DROPPED = {"density": _density(0.1, "at random"), "rescale": _RESCALE}
_PRUNED = {"density": _density(0.7, "at random"), "epsilon": _EPSILON, "rescale": _RESCALE}
_BAND = {"density": _density(0.9, "the largest but for `gamma`"), "gamma": _GAMMA}
_NORMS = (Round(statistic="sum", values=sparse.norms, needed=sparse.needs_norms),)
_CUTS = (Round(statistic="kth_largest", values=sparse.magnitudes_twice, rank=sparse.band),)
_NEAR = Parameter(default=0.001, low=0.0, meaning="the most that an element moves")
_GRAM = (Round(statistic="gram"),)
_DARE = "DARE, arXiv:2311.03099"
_DELLA = "DELLA-Merging, arXiv:2406.11617"
_BREADCRUMBS = "Model Breadcrumbs, arXiv:2312.06795"

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
        measure=(
            Round(
                statistic="kth_largest", values=ties.magnitudes, rank=ties.kept_counts, exact="exact_k", scope="trim"
            ),
        ),
        base="needed",
        fewest=1,
        parameters=MappingProxyType(
            {"density": _density(0.2, "the largest"), "exact_k": _EXACT_K, "trim": _SCOPE, **_VOTE}
        ),
        source="TIES-Merging, arXiv:2306.01708",
    ),
    "slerp": Method(
        summary="a point on the arc between two models, or from a base between two task vectors",
        coefficients=combinations.slerp,
        measure=_GRAM,
        base="optional",
        convex=True,
        most=2,
        source="Animating rotation with quaternion curves, doi:10.1145/325165.325242",
    ),
    "model_stock": Method(
        summary="base + t * sum of weight * (model - base), t from the angles between task vectors",
        coefficients=combinations.model_stock,
        measure=_GRAM,
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
    "nuslerp": Method(
        summary="a point on the arc between two models or task vectors, however near they are",
        coefficients=combinations.nuslerp,
        measure=_GRAM,
        base="optional",
        most=2,
        source="Animating rotation with quaternion curves, doi:10.1145/325165.325242",
    ),
    "multislerp": Method(
        summary="mean length * mean direction of models or task vectors",
        coefficients=combinations.multislerp,
        measure=_GRAM,
        base="optional",
        source="Spherical averages, doi:10.1145/502122.502124",
    ),
    "karcher": Method(
        summary="mean length * mean on the sphere of models or task vectors",
        coefficients=combinations.karcher,
        measure=_GRAM,
        base="optional",
        source="Karcher, Riemannian center of mass, doi:10.1002/cpa.3160300502",
    ),
    "dare_linear": Method(
        summary="base + lambda * sum of weight * (model - base), elements dropped at random",
        coefficients=sparse.all_added,
        combine=sparse.dare_linear,
        measure=_NORMS,
        random=True,
        base="needed",
        negative=True,
        fewest=1,
        parameters=MappingProxyType({**_DROPPED, "lambda": _LAMBDA}),
        source=_DARE,
    ),
    "dare_ties": Method(
        summary="base + lambda * mean of the task vectors, dropped at random, that agree with the elected sign",
        coefficients=sparse.only,
        combine=sparse.dare_ties,
        measure=_NORMS,
        random=True,
        base="needed",
        fewest=1,
        parameters=MappingProxyType({**_DROPPED, **_VOTE}),
        source=f"{_DARE}; TIES-Merging, arXiv:2306.01708",
    ),
    "della": Method(
        summary="base + lambda * mean of the task vectors, dropped by rank and chance, that agree in sign",
        coefficients=sparse.only,
        combine=sparse.dare_ties,
        measure=_NORMS,
        random=True,
        rows=True,
        base="needed",
        fewest=1,
        parameters=MappingProxyType({**_PRUNED, **_VOTE}),
        source=_DELLA,
    ),
    "della_linear": Method(
        summary="base + lambda * sum of weight * (model - base), elements dropped by rank and chance",
        coefficients=sparse.all_added,
        combine=sparse.dare_linear,
        measure=_NORMS,
        random=True,
        rows=True,
        base="needed",
        negative=True,
        fewest=1,
        parameters=MappingProxyType({**_PRUNED, "lambda": _LAMBDA}),
        source=_DELLA,
    ),
    "breadcrumbs": Method(
        summary="base + lambda * sum of weight * (model - base), without its largest and smallest elements",
        coefficients=sparse.all_added,
        combine=sparse.breadcrumbs,
        measure=_CUTS,
        base="needed",
        negative=True,
        fewest=1,
        parameters=MappingProxyType({**_BAND, "lambda": _LAMBDA}),
        source=_BREADCRUMBS,
    ),
    "breadcrumbs_ties": Method(
        summary="base + lambda * mean of the task vectors, without largest and smallest, that agree in sign",
        coefficients=sparse.only,
        combine=sparse.breadcrumbs_ties,
        measure=_CUTS,
        base="needed",
        fewest=1,
        parameters=MappingProxyType({**_BAND, **_VOTE}),
        source=f"{_BREADCRUMBS}; TIES-Merging, arXiv:2306.01708",
    ),
    "arcee_fusion": Method(
        summary="base, with the elements of one model that matter most in it",
        combine=fusion.arcee_fusion,
        measure=(
            Round(statistic="rows", values=fusion.divergences),
            Round(statistic="kth_largest", values=fusion.importances, rank=fusion.quartile_ranks),
        ),
        rows=True,
        whole_models=True,
        base="needed",
        convex=True,
        fewest=1,
        most=1,
        source="Arcee Fusion, https://www.arcee.ai/blog/meet-mergekit-v0-1-arcee-fusion-expanded-model-support-multi-gpu-acceleration",
    ),
    "nearswap": Method(
        summary="base + (model - base), no element of it larger than t",
        combine=fusion.nearswap,
        base="needed",
        convex=True,
        fewest=1,
        most=1,
        parameters=MappingProxyType({"t": _NEAR}),
        source="QuartetAnemoi, https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    ),
    "passthrough": Method(
        summary="scale * model",
        coefficients=combinations.passthrough,
        convex=True,
        fewest=1,
        most=1,
        parameters=MappingProxyType(
            {"scale": Parameter(default=1.0, per_model=True, meaning="the factor on each tensor")}
        ),
        source="mergekit, arXiv:2403.13257",
    ),
}
"""Name in a recipe -> the method."""
