"""Options of a mix: refused at once where they make no sense or cannot be met on this machine."""

from __future__ import annotations

import os
import re
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch
from models import TOKEN, pair, published

from cocktail_hub import MixOptions, mix, publish
from cocktail_hub.errors import CocktailError, MergeError, RecipeError
from cocktail_hub.merge.options import ARENA_BYTES, MIN_ARENA_BYTES, REMOTE_ARENA_BYTES, Budget, usable_cpus
from cocktail_hub.merge.run import require_device

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.testing import LoopbackHub


@pytest.mark.parametrize("device", ["cdua", "mps", "", "cuda:", "cuda:-1", "cuda:1:2", "cpu:1", "CUDA", "cuda\n"])
def test_a_device_is_the_cpu_or_a_cuda_card(device: str) -> None:
    with pytest.raises(RecipeError, match="Write cpu, cuda, or cuda:1"):
        MixOptions(device=device)


@pytest.mark.parametrize(
    ("size", "nbytes"), [(None, None), (1000, 1000), ("1GB", 10**9), ("1GiB", 2**30), ("500 mb", 500 * 10**6)]
)
def test_memory_is_given_as_sizes_are(size: int | str | None, nbytes: int | None) -> None:
    assert MixOptions(max_memory=size).memory_bytes == nbytes


@pytest.mark.parametrize("size", [0, -1, "", "lots", "1 pound", float("nan"), True, []])
def test_memory_that_is_no_size_is_refused(size: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        MixOptions(max_memory=size)
    assert str(caught.value) == (f"`max_memory` is {size!r}, which is not a size. Write it like 500MB, 5GB or 1GiB.")


@pytest.mark.parametrize("threads", [0, -1, "2", 2.0, True, []])
def test_threads_are_a_number_from_1_up(threads: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        MixOptions(threads=threads)
    assert str(caught.value) == (
        f"`threads` is {threads!r}, which is not a number of threads.\nWithout a thread nothing is merged.\n"
        "Write 1 or more, or leave it out for one per processor."
    )


def test_a_mix_keeps_to_memory_that_is_given_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cache"))  # nothing is there already
    recipe = pair("bert").local_recipe
    made = mix(recipe, output=tmp_path / "mix", options=MixOptions(max_memory="2MiB", threads=4))
    assert made.report["merged"].threads == 4
    with pytest.raises(MergeError, match="`max_memory` of 100,000 bytes is too little"):
        mix(recipe, output=tmp_path / "none", options=MixOptions(max_memory="100KB"))


def test_on_a_cluster_cards_have_no_numbers() -> None:
    assert MixOptions(engine="ray", device="cuda").device == "cuda"
    with pytest.raises(RecipeError, match="without a number"):
        MixOptions(engine="ray", device="cuda:1")


def cards(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("count", "device", "words"),
    [
        (0, "cuda", "torch finds no CUDA device here"),
        (0, "cuda:7", "torch finds no CUDA device here"),
        (2, "cuda:2", "torch finds 2 CUDA devices here"),
    ],
)
def test_a_card_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, count: int, device: str, words: str
) -> None:
    cards(monkeypatch, count)
    with pytest.raises(MergeError, match=words):
        require_device(MixOptions(device=device))


@pytest.mark.parametrize(("count", "device"), [(0, "cpu"), (1, "cuda"), (2, "cuda:1")])
def test_a_card_that_is_there_may_be_used(monkeypatch: pytest.MonkeyPatch, count: int, device: str) -> None:
    cards(monkeypatch, count)
    require_device(MixOptions(device=device))


def test_cards_of_a_cluster_are_not_looked_for_here(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, 0)
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    require_device(MixOptions(device="cuda", engine="ray"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (MixOptions(device="cuda"), "no CUDA device"),
        (MixOptions(device="cuda", low_disk=True), "no CUDA device"),
        (MixOptions(engine="ray"), "The package 'ray' is not installed"),
        (MixOptions(engine="ray", low_disk=True), "The package 'ray' is not installed"),
    ],
)
def test_what_is_missing_is_told_before_any_weights_are_downloaded(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: MixOptions, words: str
) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cache"))
    cards(monkeypatch, 0)
    monkeypatch.setitem(sys.modules, "ray", None)
    recipe = published("bert").recipe
    hub.clear_requests()
    with pytest.raises(CocktailError, match=words):
        mix(recipe, output=tmp_path / "out", options=options)
    with pytest.raises(CocktailError, match=words):
        publish(recipe, "alice/by-no-means", options=options, token=TOKEN)
    assert not [request for request in hub.requests if request.path.endswith(".safetensors")]
    assert not (tmp_path / "out").exists()


def test_defaults_use_every_processor_with_full_buffers() -> None:
    budget = Budget.of(threads=None, max_memory=None)
    assert budget.threads == min(usable_cpus(), 16)
    assert budget.nbytes == budget.threads * ARENA_BYTES


def test_less_memory_means_smaller_buffers_first() -> None:
    budget = Budget.of(threads=4, max_memory=4 << 20)
    assert (budget.threads, budget.arena) == (4, 1 << 20)


def test_then_fewer_threads() -> None:
    assert Budget.of(threads=4, max_memory=2 * MIN_ARENA_BYTES).threads == 2


@pytest.mark.parametrize("memory", [MIN_ARENA_BYTES, 10**6, 10**7, 10**9])
@pytest.mark.parametrize("threads", [1, 3, 64])
def test_the_budget_is_kept(memory: int, threads: int) -> None:
    assert Budget.of(threads=threads, max_memory=memory).nbytes <= memory


def test_searches_count() -> None:
    assert Budget.of(threads=2, max_memory=50 << 20, searches=5).nbytes <= 50 << 20


def test_another_device_gets_larger_buffers() -> None:
    assert Budget.of(threads=2, max_memory=None, remote=True).arena == REMOTE_ARENA_BYTES


def test_too_little_memory_says_how_much_is_needed() -> None:
    with pytest.raises(MergeError, match=re.escape("`max_memory` of 1,000 bytes is too little: the smallest buffers")):
        Budget.of(threads=1, max_memory=1000)


def test_no_threads_are_refused() -> None:
    with pytest.raises(MergeError, match="`threads` must be at least 1, got 0"):
        Budget.of(threads=0, max_memory=None)


def test_processors_are_counted_where_affinity_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cpus() == os.cpu_count()
