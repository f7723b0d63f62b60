"""What is measured over the whole model: the TIES paper's own trimming."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from merge_helpers import digests, load, mix, save_all, tensor_digests

from cocktail_hub.errors import RecipeError
from cocktail_hub.merge.engine import workers

if TYPE_CHECKING:
    from pathlib import Path

SHAPES = {"a": (300, 70), "b": (7,), "c": (90, 90), "d": (), "e": (0, 3)}


def saved(folder: Path, dtype: torch.dtype) -> list[Path]:
    """A base and two models whose tensors differ in scale, and hold integers."""
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    models: list[dict[str, torch.Tensor]] = [base]
    for _ in range(2):
        scales = dict(zip(SHAPES, (0.01, 0.1, 0.03, 1.0, 1.0), strict=True))
        noise = {name: torch.randn(shape, generator=generator) * scales[name] for name, shape in SHAPES.items()}
        models.append({name: base[name] + noise[name] for name in SHAPES})
    whole = [{name: tensor.to(dtype) for name, tensor in model.items()} for model in models]
    return save_all(folder, [model | {"steps": torch.arange(3)} for model in whole])


def mixed(folders: list[Path], out: Path, **options: Any) -> dict[str, torch.Tensor]:
    parameters = {"density": 0.3, "trim": "model"} | options.pop("parameters", {})
    mix(folders, out, method="ties", weights=[1.0, 1.0], parameters=parameters, **options)
    return load(out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_ties_trims_over_the_whole_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, library: str
) -> None:
    monkeypatch.setattr(workers, "_wants_torch", lambda _: library == "torch")
    folders = saved(tmp_path, dtype)
    base, *models = map(load, folders)
    wide = torch.float32 if dtype == torch.bfloat16 else torch.float64
    deltas = [{name: model[name].to(wide) - base[name].to(wide) for name in SHAPES} for model in models]
    flat = [torch.cat([delta[name].flatten() for name in SHAPES]).abs() for delta in deltas]
    cuts = [each.sort(descending=True).values[int(0.3 * len(each)) - 1] for each in flat]
    found = mixed(folders, tmp_path / "out")
    for name in SHAPES:
        kept = [torch.where(d[name].abs() >= cut, d[name], 0.0) for d, cut in zip(deltas, cuts, strict=True)]
        stacked = torch.stack(kept)
        agree = (stacked.sign() == stacked.sum(dim=0).sign()) & (stacked != 0)
        mean = (stacked * agree).sum(dim=0) / agree.sum(dim=0).clamp(min=1)
        torch.testing.assert_close(found[name], (base[name].to(wide) + mean).to(dtype), rtol=1e-2, atol=1e-6)
        if dtype == torch.float32:
            torch.testing.assert_close(found[name], (base[name].to(wide) + mean).to(dtype), rtol=2e-7, atol=0)
    assert torch.equal(found["steps"], torch.arange(3))


def test_neither_shards_nor_threads_nor_memory_show_in_the_bytes(tmp_path: Path) -> None:
    folders = saved(tmp_path, torch.float32)
    mixed(folders, tmp_path / "one", threads=1)
    mixed(folders, tmp_path / "two", threads=3, max_memory=60 << 20)
    mixed(folders, tmp_path / "many", threads=2, max_shard_size=4000)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert tensor_digests(tmp_path / "one") == tensor_digests(tmp_path / "many")


def test_models_may_have_densities_of_their_own_and_weight_zero(tmp_path: Path) -> None:
    folders = saved(tmp_path, torch.float32)
    whole = {"own_parameters": [{"density": 1.0}, {}], "layers": []}
    mix(folders, tmp_path / "a", method="ties", weights=[1.0, 0.0], parameters={"trim": "model"}, **whole)
    tuned = load(folders[1])
    assert all(torch.equal(tensor, tuned[name]) for name, tensor in load(tmp_path / "a").items())


@pytest.mark.parametrize("parameters", [{"density": [0.1, 0.2]}, {"exact_k": True}, {"lambda": [1, 2]}])
def test_what_cannot_go_with_it_is_refused(tmp_path: Path, parameters: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="A threshold over the whole model goes with numbers that are the same"):
        mixed(saved(tmp_path, torch.float32), tmp_path / "out", parameters=parameters)
