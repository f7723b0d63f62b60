"""A mix that is not a number is refused; what all models agree on is kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from merge_helpers import load, mix, save

import cocktail_hub.merge.engine.workers as workers_module
from cocktail_hub.errors import IncompatibleError

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = {"linear": [0.2, 0.5, 0.3], "task_arithmetic": [0.5, 0.3], "ties": [0.5, 0.3]}
SMALLEST = {"linear": 1 << 20, "task_arithmetic": 1 << 20, "ties": 14 << 20}
"""Bytes of buffers with which a tensor of 200,000 numbers is not mixed in one go. Other methods: see test_registry."""
pytestmark = pytest.mark.parametrize("library", ["torch", "numpy"])


@pytest.fixture(autouse=True)
def _library(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setattr(workers_module, "_wants_torch", lambda _: library == "torch")


def three(root: Path, dtype: torch.dtype, values: tuple[float, float, float]) -> list[Path]:
    """Models of two tensors, one element of which has given values."""
    folders = []
    for seed, value in enumerate(values):
        numbers = torch.randn(50, 40, generator=torch.Generator().manual_seed(seed)).to(dtype)
        numbers[30, 7] = value
        folders.append(save(root / f"m{seed}", {"first": torch.ones(3, dtype=dtype), "second": numbers}))
    return folders


@pytest.mark.parametrize("method", sorted(WEIGHTS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_nan_in_one_model_is_refused_with_its_place(tmp_path: Path, method: str, dtype: torch.dtype) -> None:
    folders = three(tmp_path, dtype, (1.0, math.nan, 2.0))
    with pytest.raises(IncompatibleError) as caught:
        mix(folders, tmp_path / "out", weights=WEIGHTS[method], method=method)
    assert (caught.value.model, caught.value.tensor) == ("m1", "second")
    assert str(caught.value) == (
        "'second' of 'm1' holds NaN, which is not a number (element 1,207, counted from 0).\n"
        "Every mix with it has NaN there, too, and a model with NaN is of no use. Most often training "
        "diverged.\n"
        "Remove 'm1', or take a checkpoint of it from before that."
    )
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize("method", sorted(WEIGHTS))
def test_nan_is_found_in_any_chunk(tmp_path: Path, method: str) -> None:
    numbers = torch.zeros(200_000)
    models = [save(tmp_path / f"m{seed}", {"long": numbers + seed}) for seed in range(2)]
    numbers[190_001] = math.nan
    models.append(save(tmp_path / "broken", {"long": numbers}))
    with pytest.raises(IncompatibleError, match=r"'long' of 'broken' holds NaN.*element 190,001,"):
        mix(models, tmp_path / "out", weights=WEIGHTS[method], method=method, threads=1, max_memory=SMALLEST[method])


def test_infinities_that_cancel_are_refused_with_their_models(tmp_path: Path) -> None:
    folders = three(tmp_path, torch.float32, (math.inf, -math.inf, 2.0))
    with pytest.raises(IncompatibleError) as caught:
        mix(folders, tmp_path / "out", weights=WEIGHTS["linear"])
    assert caught.value.tensor == "second"
    assert str(caught.value).startswith(
        "'second' cannot be mixed: element 1,207 (counted from 0) is inf in 'm0', -inf in 'm1', 2.0 in 'm2'.\n"
        "Infinities that cancel are not a number"
    )


@pytest.mark.whole
@pytest.mark.parametrize("method", sorted(WEIGHTS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_all_models_have_is_kept(tmp_path: Path, method: str, dtype: torch.dtype, value: float) -> None:
    folders = three(tmp_path, dtype, (value, value, value))
    mix(folders, tmp_path / "out", weights=WEIGHTS[method], method=method)
    mixed = load(tmp_path / "out")["second"]
    assert torch.equal(mixed[30, 7].nan_to_num(77), torch.tensor(value, dtype=dtype).nan_to_num(77))
    assert mixed.isfinite().sum() == 1999


@pytest.mark.parametrize("method", sorted(WEIGHTS))
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_all_models_have_is_kept_in_another_dtype(tmp_path: Path, method: str, value: float) -> None:
    folders = three(tmp_path, torch.float32, (value, value, value))
    mix(folders, tmp_path / "out", weights=WEIGHTS[method], method=method, dtype="float64")
    assert str(load(tmp_path / "out")["second"][30, 7].item()) == str(value)


@pytest.mark.parametrize(
    ("dtype", "values", "weights"),
    [
        (torch.bfloat16, (3e38, -3e38, 1.0), [1.5, -0.6, 0.1]),
        (torch.float32, (3e38, -3e38, 1.0), [1.5, -0.6, 0.1]),
        (torch.float64, (-1.7e308, 1.7e308, 1.0), [1.5, -0.6, 0.1]),
        (torch.float32, (2.0, 3e38, 3e38), [-0.6, 0.8, 0.8]),
    ],
)
def test_weights_that_make_a_number_infinite_are_refused(
    tmp_path: Path, dtype: torch.dtype, values: tuple[float, float, float], weights: list[float]
) -> None:
    folders = three(tmp_path, dtype, values)
    held = [torch.tensor(value, dtype=dtype).item() for value in values]
    with pytest.raises(IncompatibleError) as caught:
        mix(folders, tmp_path / "out", weights=weights)
    assert caught.value.tensor == "second"
    assert str(caught.value) == (
        f"'second' cannot be mixed: element 1,207 (counted from 0) is {held[0]} in 'm0', {held[1]} in 'm1', "
        f"{held[2]} in 'm2', and the mix of it is too large for {str(dtype).removeprefix('torch.')}.\n"
        "It would be infinite, and a model with an infinite number is of no use.\n"
        "Choose a `dtype` of more range (`bfloat16` or `float32`, not `float16`), or smaller weights or `lambda`."
    )
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize("value", [1e39, -1e39])
def test_a_type_that_a_number_does_not_fit_into_is_refused(tmp_path: Path, value: float) -> None:
    folders = three(tmp_path, torch.float64, (value, value, value))
    with pytest.raises(IncompatibleError, match=r"the mix of it is too large for float32\."):
        mix(folders, tmp_path / "out", weights=WEIGHTS["linear"], dtype="float32")
    mix(folders, tmp_path / "out", weights=WEIGHTS["linear"])
    assert load(tmp_path / "out")["second"].isfinite().all()


def test_float16_is_the_type_that_numbers_of_models_may_not_fit_into(tmp_path: Path, library: str) -> None:
    if library == "numpy":
        pytest.skip("float16 is left to torch")
    folders = three(tmp_path, torch.bfloat16, (1e5, 1e5, 1e5))
    with pytest.raises(IncompatibleError, match=r"the mix of it is too large for float16\."):
        mix(folders, tmp_path / "out", weights=WEIGHTS["linear"], dtype="float16")
    folders = three(tmp_path, torch.float16, (6e4, -6e4, 0.0))
    with pytest.raises(IncompatibleError, match=r"the mix of it is too large for float16\."):
        mix(folders, tmp_path / "out", weights=[1.0, 0.5], method="task_arithmetic", parameters={"lambda": -1.0})
    mix(folders, tmp_path / "out", weights=WEIGHTS["linear"])
    assert load(tmp_path / "out")["second"].isfinite().all()


def test_a_lambda_that_makes_all_infinite_is_told_from_infinities_that_cancel(tmp_path: Path) -> None:
    folders = three(tmp_path, torch.bfloat16, (1.0, 2.0, 3.0))
    with pytest.raises(IncompatibleError, match=r"the mix of it is too large for bfloat16\.(?s:.*) or `lambda`\."):
        mix(folders, tmp_path / "o", weights=[0.5, 0.5], method="task_arithmetic", parameters={"lambda": 1e39})


def test_task_vectors_that_are_too_large_are_refused(tmp_path: Path) -> None:
    folders = three(tmp_path, torch.float64, (-1.7e308, 1.7e308, 1.7e308))
    with pytest.raises(IncompatibleError, match=r"the mix of it is too large for float64\."):
        mix(folders, tmp_path / "out", weights=WEIGHTS["ties"], method="ties")


@pytest.mark.parametrize("method", sorted(WEIGHTS))
def test_an_infinity_of_a_model_is_kept(tmp_path: Path, method: str) -> None:
    """Masks are saved so. What a model has on purpose is not refused for being infinite."""
    folders = three(tmp_path, torch.float32, (math.inf, 1.0, 2.0) if method == "linear" else (1.0, math.inf, math.inf))
    mix(folders, tmp_path / "out", weights=WEIGHTS[method], method=method)
    assert load(tmp_path / "out")["second"][30, 7] == math.inf


def test_infinity_outweighs_finite_numbers_whose_sum_would_overflow(tmp_path: Path) -> None:
    folders = three(tmp_path, torch.bfloat16, (3.39e38, math.inf, 0.0))
    extra = save(tmp_path / "m3", load(folders[2]))
    models, weights = [*folders, extra], [0.3, 0.2, 0.4]
    mix(models, tmp_path / "out", weights=weights, method="ties", parameters={"density": 1.0})
    assert load(tmp_path / "out")["second"][30, 7] == math.inf
