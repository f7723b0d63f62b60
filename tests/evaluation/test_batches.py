import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scoring_models import settings_for

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.batches import MAX_ROWS, is_out_of_memory, pad_right, run_in_batches
from cocktail_hub.evaluation.examples import Examples
from cocktail_hub.evaluation.model import ScoringRun

CPU = torch.device("cpu")


def run(on_texts=None, **weighting):
    return ScoringRun(
        name="m",
        folder=Path("m"),
        tokenizer_folder=Path("m"),
        examples=Examples(()),
        settings=settings_for("text-generation", **weighting),
        device=CPU,
        on_texts=on_texts,
    )


@given(st.lists(st.integers(1, 3000), max_size=40), st.one_of(st.none(), st.integers(1, 7)))
def test_results_come_back_in_order_whatever_the_batches(costs, batch_size):
    assert run_in_batches(costs, lambda batch: [i * 2 for i in batch], run(batch_size=batch_size)) == [
        i * 2 for i in range(len(costs))
    ]


def test_batches_hold_texts_of_like_length_within_the_budget():
    costs, seen = [10, 700, 250, 500, 300, 2000, 20], []
    run_in_batches(costs, lambda batch: seen.append([costs[i] for i in batch]) or batch, run())
    assert seen == [[2000], [700], [500, 300], [250, 20, 10]]


def test_a_given_batch_size_is_kept():
    seen = []
    run_in_batches([1] * 7, lambda batch: seen.append(len(batch)) or batch, run(batch_size=3))
    assert seen == [3, 3, 1]


def test_batches_without_cost_are_bounded():
    seen = []
    run_in_batches([0] * (MAX_ROWS + 1), lambda batch: seen.append(len(batch)) or batch, run())
    assert seen == [MAX_ROWS, 1]


def test_a_batch_that_does_not_fit_is_halved_and_later_ones_are_no_bigger():
    tried = []

    def forward(batch):
        tried.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [-i for i in batch]

    assert run_in_batches([1] * 12, forward, run()) == [-i for i in range(12)]
    assert tried == [12, 6, 3, 3, 3, 3]


def test_a_text_that_does_not_fit_alone_names_its_example():
    def forward(batch):
        if 2 in batch:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return batch

    with pytest.raises(ScoringError, match=re.escape("A text of example 7 alone does not fit into")) as caught:
        run_in_batches([1, 1, 1], forward, run(), owners=[5, 6, 7])
    assert (caught.value.example, caught.value.model) == (7, "m")


def test_other_errors_pass_through():
    def forward(batch):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        run_in_batches([1, 1], forward, run())


@pytest.mark.parametrize("text", ["MPS backend out of memory", "[enforce fail] not enough memory: you tried"])
def test_running_out_of_memory_is_recognised_on_every_device(text):
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("out of range"))


def test_progress_is_reported_after_every_batch():
    seen = []
    run_in_batches([1] * 5, list, run(batch_size=2, on_texts=lambda done, total: seen.append((done, total))))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_padding_is_on_the_right():
    rows = [{"input_ids": [5], "attention_mask": [1]}, {"input_ids": [6, 7], "attention_mask": [1, 1]}]
    padded = pad_right(rows, {"input_ids": 9}, CPU)
    assert padded["input_ids"].tolist() == [[5, 9], [6, 7]]
    assert padded["attention_mask"].tolist() == [[1, 0], [1, 1]]
