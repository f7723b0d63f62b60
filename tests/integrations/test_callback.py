"""MixBack, with real training of tiny models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import embedders
import pytest
import torch
from models import TOKEN, pair, pushed_files
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from cocktail_hub import MixBack, MixOptions
from cocktail_hub.errors import MergeError, RecipeError, ScoringError, SourceError
from cocktail_hub.hub import Hub

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.whole
EXAMPLES = [{"prompt": "the cat sat on", "completion": "the mat"}, {"prompt": "a dog ran in", "completion": "the park"}]


def train(folder: Path, callback: MixBack) -> dict[str, torch.Tensor]:
    """Train a tiny Llama for two steps; return its weights in the end."""
    base = pair("llama").folders[0]
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = tokenizer("the cat sat on the mat")["input_ids"]
    rows = [{"input_ids": ids, "labels": ids}] * 4
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=2, learning_rate=0.1, report_to="none", save_strategy="no", use_cpu=True
    )
    trainer = Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer, callbacks=[callback])
    trainer.train()
    return {name: value.detach().cpu() for name, value in trainer.model.state_dict().items()}


def test_a_model_is_mixed_with_its_base_when_training_ends(tmp_path: Path) -> None:
    base = pair("llama").folders[0]
    callback = MixBack(base, weight=0.25)
    trained = train(tmp_path, callback)
    assert callback.mix is not None
    assert callback.mix.path == tmp_path / "mix"
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    after = callback.mix.load().state_dict()
    moved = [name for name, value in trained.items() if not torch.equal(value, before[name])]
    assert moved
    for name, value in after.items():
        assert torch.equal(value, (0.25 * trained[name].double() + 0.75 * before[name].double()).float()), name
    assert [i.weight for i in callback.mix.recipe.ingredients] == [0.25, 0.75]
    assert callback.evaluation is None
    train(tmp_path, again := MixBack(base))
    assert again.mix is not None
    assert [i.weight for i in again.mix.recipe.ingredients] == [0.5, 0.5]


def test_examples_weigh_and_evaluate_the_mix_and_it_is_pushed(tmp_path: Path) -> None:
    options = MixOptions(hub=Hub(token=TOKEN), scoring_device="cpu")
    callback = MixBack(pair("llama").folders[0], examples=EXAMPLES, push_to_hub="alice/mixed-back", options=options)
    train(tmp_path, callback)
    assert callback.mix is not None
    assert callback.evaluation is not None
    assert sum(i.weight for i in callback.mix.recipe.ingredients) == pytest.approx(1)
    assert "The mix" in callback.evaluation.results[0].models
    assert {"model.safetensors", "recipe.json", "README.md"} <= pushed_files("alice/mixed-back")


@pytest.mark.filterwarnings("ignore")  # those of datasets
def test_an_embedder_is_mixed_as_its_own_trainer_saves_it(tmp_path: Path) -> None:
    datasets: Any = pytest.importorskip("datasets")
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    base = embedders.pair("mean")[0]
    model = SentenceTransformer(str(base))
    table = datasets.table.InMemoryTable.from_pydict({"anchor": ["the cat", "a dog"], "positive": ["the mat", "ran"]})
    rows = datasets.Dataset(table, fingerprint="two")
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        learning_rate=0.1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
    )
    callback = MixBack(base, weight=0.5)
    loss = MultipleNegativesRankingLoss(model)
    SentenceTransformerTrainer(model, arguments, train_dataset=rows, loss=loss, callbacks=[callback]).train()
    assert callback.mix is not None
    assert callback.mix.load_sentence_transformer().encode(["the cat"]).shape == model.encode(["the cat"]).shape


def test_an_embedder_is_saved_with_its_modules_and_other_processes_do_nothing(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    base = embedders.pair("dense")[0]
    callback, model = MixBack(base), SentenceTransformer(str(base))
    arguments: Any = SimpleNamespace(output_dir=str(tmp_path))
    for first in (False, True):
        state: Any = SimpleNamespace(is_world_process_zero=first)
        callback.on_train_end(arguments, state, None, model=model)  # type: ignore[arg-type]
        assert (callback.mix is not None) == first
    assert callback.mix is not None
    assert (callback.mix.load_sentence_transformer().encode(["the cat"]) == model.encode(["the cat"])).all()


def test_what_cannot_be_mixed_is_refused_before_training(tmp_path: Path) -> None:
    whole = SimpleNamespace(deepspeed=None, fsdp=[], output_dir=str(tmp_path))
    with pytest.raises(SourceError, match="'acme/no-such-base' is not on the Hub"):
        MixBack("acme/no-such-base").on_train_begin(whole)
    with pytest.raises(ScoringError, match="MixBack got one example"):
        MixBack(pair("bert").folders[0], examples=EXAMPLES[:1]).on_train_begin(whole)
    with pytest.raises(MergeError, match="DeepSpeed or FSDP cuts into pieces"):
        MixBack("acme/base").on_train_begin(SimpleNamespace(deepspeed="zero3.json", fsdp=[]))
    with pytest.raises(RecipeError, match=r"`weight` must be between 0 and 1, got 2\.0"):
        MixBack("acme/base", weight=2.0)
