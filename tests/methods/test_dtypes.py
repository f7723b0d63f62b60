from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save

from cocktail_hub.errors import CheckpointError, RecipeError
from cocktail_hub.methods.dtypes import (
    BITS,
    EXACT,
    MIXABLE,
    TORCH_NAMES,
    mixable_dtype,
    safetensors_dtype,
    torch_dtype,
)


@pytest.mark.parametrize("name", sorted(TORCH_NAMES))
def test_names_go_to_torch_and_back_with_the_right_size(name: str) -> None:
    dtype = torch_dtype(name)
    assert safetensors_dtype(dtype) == name
    if name != "F4":  # torch counts two of them as one element
        assert dtype.itemsize * 8 == BITS[name]


@pytest.mark.parametrize("name", sorted(set(TORCH_NAMES) - {"F4"}))
def test_names_are_those_that_safetensors_writes(name: str) -> None:
    assert f'"dtype":"{name}"'.encode() in save({"x": torch.zeros(2, dtype=torch_dtype(name))})


def test_what_torch_cannot_hold_is_refused() -> None:
    with pytest.raises(CheckpointError, match="cannot hold the dtype 'F6_E2M3'"):
        torch_dtype("F6_E2M3")
    with pytest.raises(CheckpointError, match="cannot hold the dtype 'complex128'"):
        safetensors_dtype(torch.complex128)


def test_a_dtype_is_mixed_or_compared_or_refused() -> None:
    assert not MIXABLE & EXACT
    assert set(BITS) >= MIXABLE | EXACT


@pytest.mark.parametrize("name", ["bfloat16", "torch.bfloat16", "BF16", "bf16"])
def test_a_mix_can_be_asked_for_by_any_name_of_a_dtype(name: str) -> None:
    assert mixable_dtype(name) == "BF16"


@pytest.mark.parametrize("name", ["int8", "float8_e4m3fn", "half-ish", ""])
def test_a_mix_of_another_dtype_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="`dtype` of a mix cannot be"):
        mixable_dtype(name)


def test_a_slip_in_a_dtype_is_corrected() -> None:
    with pytest.raises(RecipeError, match=re.escape("Did you mean 'bfloat16'?")):
        mixable_dtype("bfloat61")
