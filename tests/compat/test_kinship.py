"""Models that were not trained from one base are told apart by a sample of one matrix."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cocktail_hub.checkpoint.conversion.align import align
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.compat.kinship import unrelated

NAMES = [f"layers.{layer}.mlp.weight" for layer in range(3)]


def notes(folder: Path, *models: dict[str, torch.Tensor]) -> list[str]:
    files = []
    for name, tensors in zip("abc", models, strict=False):
        (folder / name).mkdir()
        save_file(tensors, folder / name / "model.safetensors")
        files.append(LocalFiles(folder / name, name=name))
    mappings = align([read_weight_files(opened) for opened in files], [{}] * len(files))
    return unrelated(files, mappings, 0, least=1 << 14)


def weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(128, 128, generator=generator) for name in NAMES}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_model_that_was_trained_apart_is_told_and_a_fine_tune_is_not(tmp_path: Path, dtype: torch.dtype) -> None:
    base, other = weights(1), weights(2)
    tuned = {name: (tensor + 0.5 * other[name]).to(dtype) for name, tensor in base.items()}
    (note,) = notes(tmp_path, base, tuned, {name: tensor.to(dtype) for name, tensor in other.items()})
    what, cosine = note.split("is ", 1)
    assert what == "'c' has hardly anything in common with 'a' (the cosine of 'layers.1.mlp.weight' "
    assert abs(float(cosine.split(")")[0])) < 0.05
    assert note.endswith("): if they were not trained from one base, their mix is of no use.")


def test_small_matrices_and_those_outside_of_layers_tell_nothing(tmp_path: Path) -> None:
    small = ({"layers.0.mlp.weight": torch.randn(64, 64)} for _ in range(2))
    assert notes(tmp_path, *small) == []
    (tmp_path / "heads").mkdir()
    assert notes(tmp_path / "heads", *({"lm_head.weight": torch.randn(128, 128)} for _ in range(2))) == []


def test_a_matrix_of_zeros_tells_nothing(tmp_path: Path) -> None:
    assert notes(tmp_path, weights(1), {name: torch.zeros(128, 128) for name in NAMES}) == []
