import gc
import re
import subprocess
import sys

import pytest
import scoring_models as weigh_models
from scoring_models import QA, RANKED
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedModel

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.examples import load_examples
from cocktail_hub.evaluation.losses_cache import LossesCache
from cocktail_hub.evaluation.scorer import Candidate, score_all, score_folder
from cocktail_hub.evaluation.settings import ScoringSettings
from cocktail_hub.search.softmax import weigh

pytestmark = pytest.mark.whole

SETTINGS = ScoringSettings(task="decoder", batch_size=2)


def candidate(folder, name, opened=None):
    def give():
        if opened is not None:
            opened.append(name)
        return folder

    return Candidate(name=name, identity=f"{name}@1", folder=give)


@pytest.fixture
def three(tmp_path):
    return [candidate(weigh_models.save_llama(tmp_path / f"l{seed}", seed=seed), f"l{seed}") for seed in range(3)]


@pytest.fixture(scope="module", autouse=True)
def _without_models_of_other_files():
    """They are not to be counted: what is frozen is not listed."""
    gc.collect()
    gc.freeze()


def alive(kind=PreTrainedModel):
    return sum(issubclass(type(thing), kind) for thing in gc.get_objects())


def test_one_model_is_in_memory_at_a_time_and_none_afterwards(three):
    gc.collect()
    before, seen = alive(LlamaForCausalLM), []
    score_all(
        three, QA, SETTINGS, on_progress=lambda progress: seen.append((progress.done, alive(LlamaForCausalLM) - before))
    )
    assert [count for done, count in seen if done == 0] == [0, 0, 0]
    assert {count for done, count in seen if done > 0} == {1}
    assert alive() == before


@pytest.mark.parametrize("task", ["encoder", "reranker"])
def test_sentence_transformers_models_are_freed_too(embedder, reranker, task):
    folder = embedder if task == "encoder" else reranker
    gc.collect()
    before = alive()
    score_folder(folder, RANKED[:4], ScoringSettings(task=task), name="m")
    assert alive() == before


def test_progress_runs_over_ingredients_and_texts(three):
    seen = []
    score_all(three[:2], QA, SETTINGS, on_progress=seen.append)
    assert [(p.name, p.ingredient, p.ingredients, p.done, p.total) for p in seen] == [
        (name, index, 2, done, total)
        for index, name in enumerate(("l0", "l1"))
        for done, total in ((0, 0), (2, 5), (4, 5), (5, 5))
    ]


def test_progress_of_an_encoder_counts_queries_and_passages_together(bert):
    seen = []
    score_folder(bert, RANKED[:2], ScoringSettings(task="encoder"), name="m", on_progress=seen.append)
    assert [(p.done, p.total) for p in seen] == [(0, 0), (2, 10), (10, 10)]


def test_adding_one_ingredient_costs_one_scoring(tmp_path, three):
    cache, opened = LossesCache(tmp_path / "cache"), []
    watched = [candidate(one.folder(), one.name, opened) for one in three]
    first = score_all(watched[:2], QA, SETTINGS, cache=cache)
    again = score_all(watched, QA, SETTINGS, cache=cache)
    assert opened == ["l0", "l1", "l2"]
    assert again[:2] == first
    assert again == score_all(three, QA, SETTINGS)


def test_a_cached_ingredient_is_told_as_finished(tmp_path, three):
    cache, seen = LossesCache(tmp_path / "cache"), []
    score_all(three[:1], QA, SETTINGS, cache=cache)
    score_all(three[:1], QA, SETTINGS, cache=cache, on_progress=seen.append)
    assert [(p.name, p.done, p.total) for p in seen] == [("l0", 5, 5)]


def test_other_examples_and_settings_are_scored_anew(tmp_path, three):
    cache, opened = LossesCache(tmp_path / "cache"), []
    one = [candidate(three[0].folder(), "l0", opened)]
    score_all(one, QA, SETTINGS, cache=cache)
    score_all(one, QA, ScoringSettings(task="decoder", batch_size=3, device="cpu"), cache=cache)
    assert len(opened) == 1
    score_all(one, QA[:4], SETTINGS, cache=cache)
    score_all(one, QA, ScoringSettings(task="decoder", max_length=9), cache=cache)
    assert len(opened) == 3


def test_one_tokenizer_can_read_for_all(three, chat_llama):
    settings = ScoringSettings(task="decoder", chat_template=True)
    shares = weigh(score_all(three, QA, settings, tokenizer=candidate(chat_llama, "chat")))
    assert sum(shares.weights) == pytest.approx(1)


@pytest.mark.parametrize(("kind", "task"), [("llama", "decoder"), ("t5", "encoder-decoder"), ("bert", "encoder")])
def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(request, tmp_path, kind, task):
    folder = request.getfixturevalue(kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["Quux"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ScoringError, match=r"The tokenizer gives token .*, but 'm' has embeddings for .* tokens only"):
        score_folder(
            folder,
            [RANKED[0] | {"query": "Quux"}] if task == "encoder" else [{"input": "in Quux", "output": "in Quux"}],
            ScoringSettings(task=task),
            name="m",
            tokenizer_folder=tmp_path,
        )


def test_chat_and_plain_models_are_not_compared(three, chat_llama):
    settings = ScoringSettings(task="decoder", chat_template=True)
    losses = score_all([candidate(chat_llama, "chat"), three[0]], QA, settings)
    with pytest.raises(ScoringError, match="'chat' was scored by chat template, 'l0' by plain text"):
        weigh(losses)


def test_examples_of_another_kind_are_refused(llama):
    examples = load_examples(RANKED, "encoder")
    with pytest.raises(ScoringError, match=re.escape("the task 'decoder' needs a 'decoder'")):
        score_folder(llama, examples, SETTINGS, name="m")


def test_encoder_examples_serve_a_reranker(reranker):
    examples = load_examples(RANKED[:4], "encoder")
    assert score_folder(reranker, examples, ScoringSettings(task="text-ranking"), name="m").texts == 14


def test_bad_examples_are_refused_before_anything_is_loaded(three):
    opened = []
    with pytest.raises(ScoringError, match="Example 1 has no key 'output'"):
        score_all([candidate(three[0].folder(), "l0", opened)], [QA[0], {"input": "a"}], SETTINGS)
    assert opened == []


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused(llama, device):
    with pytest.raises(ScoringError, match=f"The device '{device}' cannot be used"):
        score_folder(llama, QA, ScoringSettings(task="decoder", device=device), name="m")


def test_rules_examples_and_the_scorer_load_no_torch():
    code = (
        "import sys; from cocktail_hub.evaluation import examples, scorer, losses_cache, settings;"
        "from cocktail_hub.search import report, softmax;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
