"""What every registered method promises, and that a new one is a function and a line."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from merge_helpers import digests, load, merged, mix, model, plan, save_all, tensor_digests

import cocktail_hub
from cocktail_hub.errors import CocktailError, IncompatibleError, RecipeError
from cocktail_hub.merge.engine import workers
from cocktail_hub.merge.kernels.buffers import Buffers
from cocktail_hub.merge.kernels.torch_buffers import TorchBuffers
from cocktail_hub.methods.contract import Method, Parameter, Round
from cocktail_hub.methods.fixed_sum import row_sums
from cocktail_hub.methods.registry import METHODS
from cocktail_hub.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

FLOATS = [torch.float16, torch.bfloat16, torch.float32]
DENSITIES = {"ties": "density", "sce": "select_topk"}
WHOLE = {
    "dare_linear": {"density": 1.0},
    "dare_ties": {"density": 1.0},
    "della": {"density": 1.0},
    "della_linear": {"density": 1.0},
    "breadcrumbs": {"density": 1.0, "gamma": 0.0},
    "breadcrumbs_ties": {"density": 1.0, "gamma": 0.0},
    "nearswap": {"t": 1e9},
}
"""Parameters with which a method changes nothing about its only vector."""


def scaled(weights: Sequence[float], parameters: Any) -> list[float]:
    return [parameters["scale"] * weight for weight in weights]


def by_length(weights: Sequence[float], _: Any, gram: Sequence[Sequence[float]]) -> list[float]:
    """Weigh vectors by their length."""
    lengths = [weight * math.sqrt(gram[i][i]) for i, weight in enumerate(weights)]
    return [length / (sum(lengths) or 1.0) for length in lengths]


def clipped(xp: Any, vectors: Sequence[Any], weights: Sequence[float], _: Any, largest: Sequence[float]) -> Any:
    """Average vectors, none longer than the third largest magnitude of the first."""
    total: Any = 0
    for vector, weight in zip(vectors, weights, strict=True):
        total += xp.clip(vector, -largest[0], largest[0]) * weight
    return total / sum(weights)


def documented() -> Method:
    """The method that the documentation adds."""
    page = (Path(__file__).parents[2] / "docs" / "design.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    exec(block, {})
    return METHODS.pop("damped")


TOYS = {
    "damped": documented(),
    "scaled": Method(
        summary="base + scale * sum of weight * (model - base)",
        source="a test",
        coefficients=scaled,
        base="needed",
        fewest=1,
        parameters={"scale": Parameter(default=1.0, low=0.0, high=2.0, meaning="the factor on everything")},
    ),
    "by_length": Method(
        summary="sum of length * model",
        source="a test",
        coefficients=by_length,
        measure=(Round(statistic="gram"),),
        base="optional",
    ),
    "halved": Method(
        summary="half of the first model", source="a test", combine=lambda xp, vectors, *_: xp.abs(vectors[0]) * 0.5
    ),
    "clipped": Method(
        summary="base + mean of clipped (model - base)",
        source="a test",
        combine=clipped,
        measure=(
            Round(statistic="kth_largest", values=lambda xp, vectors, _: [xp.abs(vectors[0])], rank=lambda numel, _: 3),
        ),
        base="needed",
    ),
}


def sown(xp: Any, vectors: Sequence[Any], weights: Sequence[float], parameters: Any, sums: Any, *, draws: Any) -> Any:
    """Add up random halves of the vectors, and the sum of a random half of the elements."""
    total: Any = 0
    for index, (vector, weight) in enumerate(zip(vectors, weights, strict=True)):
        total += (draws.uniform(index) < parameters["chance"][index]) * vector * weight
    return total * (1.0 + sums[0] * 0.0)


def lifted(xp: Any, vectors: Sequence[Any], weights: Sequence[float], _: Any, largest: Sequence[float]) -> Any:
    """Add up vectors, each divided by the range of its row; none gets longer than the largest one."""
    total: Any = 0
    for vector, weight in zip(vectors, weights, strict=True):
        total += vector / (1.0 + row_sums(xp, xp.abs(vector))) * weight
    return xp.clip(total, -largest[0], largest[0])


TOYS |= {
    "sown": Method(
        summary="base + sum of a random half of weight * (model - base)",
        source="a test",
        combine=sown,
        measure=(
            Round(
                statistic="sum",
                values=lambda xp, vectors, _, *, draws: [xp.asarray(vectors[0], dtype=xp.float64) * draws.uniform(0)],
            ),
        ),
        base="needed",
        random=True,
        parameters={"chance": Parameter(default=0.5, low=0.0, high=1.0, per_model=True, meaning="how likely each is")},
    ),
    "lifted": Method(
        summary="base + sum of weight * (model - base) by rows",
        source="a test",
        combine=lifted,
        measure=(
            Round(
                statistic="kth_largest",
                values=lambda xp, vectors, _: [xp.abs(vectors[0]) / (1.0 + row_sums(xp, xp.abs(vectors[0])))],
                rank=lambda numel, _: [1],
            ),
        ),
        base="needed",
        rows=True,
    ),
}


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, method in TOYS.items():
        monkeypatch.setitem(METHODS, name, method)


every_method = pytest.mark.parametrize("method", sorted([*METHODS, *TOYS]))
every_dtype = pytest.mark.parametrize("dtype", FLOATS)


def based(method: str) -> bool:
    return METHODS[method].base == "needed"


def weights_of(method: str) -> list[float]:
    if METHODS[method].most == 1:
        return [1.0]
    return [0.4, 0.6] if METHODS[method].most or not based(method) else [0.5, 0.3, 0.2]


def given(method: str, dtype: torch.dtype, count: int = 400, scale: float = 0.05) -> list[torch.Tensor]:
    """A base, if the method needs one, and models near to it."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(count, generator=generator)
    models = [(base + torch.randn(count, generator=generator) * scale).to(dtype) for _ in weights_of(method)]
    return [base.to(dtype), *models] if based(method) else models


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.flatten().view(torch.uint8).numpy().tobytes()


@every_method
@every_dtype
def test_a_model_with_itself_is_itself(method: str, dtype: torch.dtype) -> None:
    if method == "halved":
        pytest.skip("its definition says otherwise")
    one = torch.randn(400, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert bits(merged([one] * len(given(method, dtype)), weights_of(method), method)) == bits(one)


@every_method
@every_dtype
@pytest.mark.parametrize("library", [Buffers, TorchBuffers])
def test_one_hot_weights_give_that_ingredient(method: str, dtype: torch.dtype, library: type[Buffers]) -> None:
    density = {DENSITIES[method]: 1.0} if method in DENSITIES else WHOLE.get(method, {})
    if method in {"halved", "clipped", "sce", "sown", "lifted", "arcee_fusion"} or (
        library is Buffers and dtype == torch.float16
    ):
        pytest.skip("its definition says otherwise, or float16 is left to torch")
    models, hot = given(method, dtype), len(weights_of(method)) - 1
    weights = [float(i == hot) for i in range(hot + 1)]
    assert bits(merged(models, weights, method, library=library, **density)) == bits(models[-1])


@pytest.mark.whole
@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_chunks_and_libraries_do_not_show_in_the_bytes(method: str, dtype: torch.dtype) -> None:
    models = given(method, dtype, 7001)
    found = {
        bits(merged(models, weights_of(method), method, library=library, arena=arena))
        for library in (Buffers, TorchBuffers)
        for arena in (1 << 24, 50_000, 33_333)
    }
    assert len(found) == 1


@pytest.mark.whole
@every_method
def test_threads_shards_and_memory_do_not_show_in_the_bytes(tmp_path: Path, method: str) -> None:
    folders = save_all(tmp_path, [model(seed) for seed in range(len(given(method, torch.float32)))])
    results = []
    for index, (threads, size) in enumerate([(1, "5GB"), (3, "5GB"), (2, 5000), (1, 1)]):
        out = tmp_path / f"out{index}"
        mix(folders, out, weights=weights_of(method), method=method, threads=threads, max_shard_size=size)
        results.append((digests(out), tensor_digests(out)))
    assert results[0][0] == results[1][0]
    assert all(tensors == results[0][1] for _, tensors in results)


@pytest.mark.whole
@every_method
@every_dtype
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 3)])
def test_tensors_of_every_shape_are_mixed(method: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    models = [torch.full(shape, 1.0 + seed).to(dtype) for seed in range(len(given(method, dtype)))]
    found = merged(models, weights_of(method), method)
    assert (found.shape, found.dtype) == (shape, dtype)
    assert found.isfinite().all()


@every_method
@every_dtype
def test_zeros_stay_zeros(method: str, dtype: torch.dtype) -> None:
    zeros = torch.zeros(70, dtype=dtype)
    assert not merged([zeros] * len(given(method, dtype)), weights_of(method), method).any()


@pytest.mark.whole
@every_method
@pytest.mark.parametrize("library", ["torch", "numpy"])
@pytest.mark.parametrize("values", [(1.0, math.nan), (math.inf, -math.inf)])
def test_nan_and_infinities_that_cancel_are_refused_with_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, values: tuple[float, float], library: str
) -> None:
    if method in {"halved", "passthrough"} or (method in {"clipped", "nearswap"} and math.isinf(values[0])):
        pytest.skip("its definition gives a number")
    monkeypatch.setattr(workers, "_wants_torch", lambda _: library == "torch")
    models = [{"first": torch.ones(3), "second": tensor} for tensor in given(method, torch.float32)]
    models[-2]["second"][17], models[-1]["second"][17] = values
    with pytest.raises(IncompatibleError, match=r"'second'.*element 17") as caught:
        mix(save_all(tmp_path, models), tmp_path / "out", weights=weights_of(method), method=method)
    assert caught.value.tensor == "second"
    assert math.isinf(values[0]) or caught.value.model == f"m{len(models) - 1}"


@every_method
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_all_models_have_is_kept(method: str, value: float) -> None:
    models = given(method, torch.float32)
    for tensor in models:
        tensor[17] = value
    found = merged(models, weights_of(method), method)
    assert str(found[17].abs().item() if method == "halved" else found[17].item()) == str(
        abs(value) if method == "halved" else value
    )
    assert found.isfinite().sum() == len(found) - 1


@pytest.mark.parametrize(("method", "name"), DENSITIES.items())
def test_a_density_of_zero_is_refused_and_a_tiny_one_keeps_one(method: str, name: str) -> None:
    with pytest.raises(RecipeError, match="must be a number above 0 to 1"):
        merged(given(method, torch.float32), weights_of(method), method, **{name: 0.0})
    models = given(method, torch.float32)
    changed = merged(models, weights_of(method), method, **{name: 1e-9}) != models[0]
    assert 1 <= changed.sum() <= len(models) - 1


def test_measured_coefficients_are_reported(tmp_path: Path) -> None:
    tensors = [{"x": torch.tensor(values)} for values in ([0.0, 0.0], [3.0, 0.0], [0.0, 4.0])]
    report = mix(save_all(tmp_path, tensors), tmp_path / "out", weights=[0.5, 0.5], method="slerp", threads=2)
    assert report.coefficients == {"x": pytest.approx((1 - 2 * math.sqrt(0.5), math.sqrt(0.5), math.sqrt(0.5)))}
    assert load(tmp_path / "out")["x"].tolist() == pytest.approx([3 * math.sqrt(0.5), 4 * math.sqrt(0.5)])


@pytest.mark.whole
@pytest.mark.parametrize("method", ["sown", "lifted", "ties"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_matrices_are_mixed_alike_in_chunks_of_any_number_of_rows(method: str, dtype: torch.dtype) -> None:
    models = [tensor.reshape(77, 91) for tensor in given(method, dtype, 7007)]
    found = {
        bits(merged(models, [0.5, 0.3, 0.2], method, library=library, arena=arena))
        for library in (Buffers, TorchBuffers)
        for arena in (1 << 24, 50_000, 12_345)
    }
    assert len(found) == 1


# a method that is a function and a line


def test_a_new_method_computes_what_its_function_says() -> None:
    base, a, b = torch.zeros(4), torch.tensor([1.0, 2.0, 8.0, 3.0]), torch.tensor([-9.0, 0.0, 1.0, 1.0])
    assert merged([base, a, b], [1.0, 1.0], "scaled", scale=2.0).tolist() == [-16.0, 4.0, 18.0, 8.0]
    assert merged([a, a * 3], [1.0, 1.0], "by_length").tolist() == [2.5, 5.0, 20.0, 7.5]
    assert merged([-a, b], [1.0, 1.0], "halved").tolist() == [0.5, 1.0, 4.0, 1.5]
    assert merged([base, a, b], [1.0, 3.0], "clipped").tolist() == [-1.25, 0.5, 1.25, 1.25]
    rows = merged([torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [2.0, 5.0]]), torch.zeros(2, 2)], [1.0, 1.0], "lifted")
    assert rows.tolist() == [[0.5, 0.0], [0.25, 0.625]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {"scal": 1.0}}, "Unknown key 'scal' in `parameters`. Did you mean 'scale'?"),
        ({"parameters": {"scale": 3.0}}, "`parameters.scale` must be a number from 0 to 2, got 3.0."),
        ({"base": None}, "Method 'scaled' needs a `base`."),
        ({"ingredients": [{"model": "a/b", "weight": -1.0}]}, "must be finite and 0 or more"),
        ({"ingredients": []}, "Method 'scaled' takes 1 or more `ingredients`, got 0."),
        ({"method": "scaledd"}, "Did you mean 'scaled'?"),
    ],
)
def test_a_new_method_is_checked_in_recipes(changes: dict[str, Any], message: str) -> None:
    recipe = {"method": "scaled", "base": "a/base", "ingredients": [{"model": "a/b", "weight": 1.0}]}
    Recipe.from_dict(recipe)
    with pytest.raises(CocktailError) as caught:
        Recipe.from_dict(recipe | changes)
    assert message in str(caught.value)


def test_random_numbers_depend_on_seed_model_and_tensor_alone() -> None:
    ones, zeros = torch.ones(1000), torch.zeros(1000)
    first = merged([zeros, ones, zeros], [1.0, 1.0], "sown")
    second = merged([zeros, zeros, ones], [1.0, 1.0], "sown")
    assert (first.sum() - 500).abs() < 60
    assert (second.sum() - 500).abs() < 60
    assert ((first * second).sum() - 250).abs() < 60
    assert torch.equal(merged([zeros, ones, ones], [1.0, 1.0], "sown"), first + second)
    assert torch.equal(merged([zeros, zeros, ones], [0.0, 1.0], "sown"), second)
    assert ((first * merged([zeros, ones, zeros], [1.0, 1.0], "sown", seed=1)).sum() - 250).abs() < 60


def test_a_method_gets_one_number_per_model_where_it_asks_for_it() -> None:
    ones, zeros = torch.ones(100), torch.zeros(100)
    own = [{"chance": 1.0}, {}, {"chance": 0.0}]
    assert merged([zeros, ones, zeros, ones], [1.0, 0.0, 1.0], "sown", own=own).tolist() == [1.0] * 100


def test_a_method_that_measures_nothing_takes_many_small_tensors_at_once(tmp_path: Path) -> None:
    folders = save_all(tmp_path, [model(seed) for seed in range(2)])
    assert {
        tensor.rule for shard in plan(folders, method="halved", weights=[1, 1]).shards for tensor in shard.tensors
    } == {
        "models",
        "same",
    }
    mix(folders, tmp_path / "out", method="halved", weights=[1, 1])
    assert torch.equal(load(tmp_path / "out")["embed"], model(0)["embed"].abs() * 0.5)


@pytest.mark.usefixtures("made_up_models")
def test_one_ingredient_beside_its_base_and_weights_to_normalize_go_the_whole_way(tmp_path: Path) -> None:
    base, tuned = ({"x": torch.tensor(values)} for values in ([1.0, 2.0], [3.0, 2.0]))
    folders = save_all(tmp_path, [base, tuned])
    for folder in folders:
        (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    negated = {
        "method": "task_arithmetic",
        "base": str(folders[0]),
        "ingredients": [{"model": str(folders[1]), "weight": -0.5}],
    }
    halves = {"normalize": True, "ingredients": [{"model": str(folder), "weight": 2} for folder in folders]}
    for name, recipe, expected in (("negated", negated, [0.0, 2.0]), ("halves", halves, [2.0, 2.0])):
        made = cocktail_hub.mix(Recipe.from_dict(recipe), output=tmp_path / name)
        assert load(made.path)["x"].tolist() == expected
