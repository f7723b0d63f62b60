from __future__ import annotations

import os
import re

import pytest

from cocktail_hub.errors import MergeError
from cocktail_hub.merge.engine.budget import (
    ARENA_BYTES,
    MIN_ARENA_BYTES,
    REMOTE_ARENA_BYTES,
    Budget,
    usable_cpus,
)


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
