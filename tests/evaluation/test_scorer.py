import gc
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import scoring_models
from scoring_models import QA, RANKED, settings_for
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedModel
from transformers.utils import logging

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.examples import check_examples
from cocktail_hub.evaluation.losses_cache import LossesCache
from cocktail_hub.evaluation.scorer import STEPS, ScoringJob, score_all
from cocktail_hub.search.softmax import weigh

pytestmark = pytest.mark.whole


def job(folder, name, opened=None, rows=QA, tokenizer=None, **keys):
    """A job that notes in `opened` that its folder is used."""

    def use():
        if opened is not None:
            opened.append(name)
        return nullcontext(folder)

    settings = settings_for("text-generation", **keys)
    return ScoringJob(
        name=name,
        identity=f"{name}@1",
        folder=use,
        tokenizer_folder=tokenizer or folder,
        tokenizer_identity=str(tokenizer or name),
        examples=check_examples(rows, settings.kind),
        settings=settings,
    )


@pytest.fixture
def three(tmp_path):
    return [scoring_models.save_llama(tmp_path / f"l{seed}", seed=seed) for seed in range(3)]


@pytest.fixture
def cache(tmp_path):
    return LossesCache(tmp_path / "cache")


@pytest.fixture(scope="module", autouse=True)
def _without_models_of_other_files():
    """They are not to be counted: what is frozen is not listed."""
    gc.collect()
    gc.freeze()


def alive(kind=PreTrainedModel):
    return sum(issubclass(type(thing), kind) for thing in gc.get_objects())


def ignore(steps):
    return None


def test_one_model_is_in_memory_at_a_time_and_none_afterwards(three, cache):
    gc.collect()
    before, seen = alive(LlamaForCausalLM), []

    def look(_):
        seen.append(alive(LlamaForCausalLM) - before)

    jobs = [job(folder, folder.name, SimpleNamespace(append=look), batch_size=5) for folder in three]
    score_all(jobs, cache, advance=look)
    assert seen == [0, *[0, 1] * 3]  # at the start, then as each folder is opened and after its only batch
    assert alive() == before


@pytest.mark.parametrize("task", ["feature-extraction", "text-ranking"])
def test_sentence_transformers_models_are_freed_too(embedder, reranker, task):
    folder = reranker if task == "text-ranking" else embedder
    gc.collect()
    before = alive()
    scoring_models.score(folder, RANKED[:4], task)
    assert alive() == before


def test_progress_has_as_many_steps_for_every_ingredient(three, cache):
    seen = []
    jobs = [job(folder, folder.name, batch_size=2) for folder in three]
    score_all(jobs[:1], cache, advance=ignore)
    score_all(jobs, cache, advance=seen.append)
    assert seen == [STEPS, 40, 40, 20, 40, 40, 20]


def test_progress_of_an_encoder_counts_queries_and_passages_together(bert):
    seen = []
    scoring_models.score(bert, RANKED[:2], "feature-extraction", on_texts=lambda *numbers: seen.append(numbers))
    assert seen == [(2, 10), (10, 10)]


def test_adding_one_ingredient_costs_one_scoring(tmp_path, three, cache):
    opened = []
    jobs = [job(folder, folder.name, opened) for folder in three]
    first = score_all(jobs[:2], cache, advance=ignore)
    again = score_all(jobs, cache, advance=ignore)
    assert opened == ["l0", "l1", "l2"]
    assert again[:2] == first
    assert again == score_all(jobs, LossesCache(tmp_path / "other"), advance=ignore)


def test_losses_are_cached_by_everything_that_decides_them(llama, chat_llama):
    key = job(llama, "a").key
    others = [
        job(llama, "b").key,
        job(llama, "a", rows=QA[:4]).key,
        job(llama, "a", max_length=9).key,
        job(llama, "a", tokenizer=chat_llama).key,
    ]
    assert len({key, *others}) == 5
    assert job(llama, "a", batch_size=3, device="cpu").key == key


def test_one_tokenizer_can_read_for_all(three, chat_llama, cache):
    jobs = [job(folder, folder.name, tokenizer=chat_llama, chat_template=True) for folder in three]
    losses = score_all(jobs, cache, advance=ignore)
    assert {one.reading for one in losses} == {"chat template"}
    assert sum(weigh(losses).values) == pytest.approx(1)


@pytest.mark.parametrize(
    ("kind", "task"), [("llama", "text-generation"), ("t5", "text2text-generation"), ("bert", "feature-extraction")]
)
def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(request, tmp_path, kind, task):
    folder = request.getfixturevalue(kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["Quux"])
    tokenizer.save_pretrained(tmp_path)
    rows = [RANKED[0] | {"query": "Quux"}] if kind == "bert" else [{"input": "in Quux", "output": "in Quux"}]
    with pytest.raises(ScoringError, match=r"The tokenizer gives token .*, but 'm' has embeddings for .* tokens only"):
        scoring_models.score(folder, rows, task, tokenizer_folder=tmp_path)


def test_chat_and_plain_models_are_not_compared(three, chat_llama, cache):
    jobs = [job(chat_llama, "chat", chat_template=True), job(three[0], "plain", chat_template=True)]
    with pytest.raises(ScoringError, match="'chat' was scored by chat template, 'plain' by plain text"):
        weigh(score_all(jobs, cache, advance=ignore))


def test_bars_of_transformers_do_not_mix_with_ours_and_are_back_afterwards(llama, cache):
    shown = []

    def hook(bar, args, keywords):
        shown.append(keywords)
        return bar(*args, **keywords)

    before = logging.set_tqdm_hook(hook)
    try:
        score_all([job(llama, "a")], cache, advance=ignore)
        assert not shown
        LlamaForCausalLM.from_pretrained(llama)
        assert shown
    finally:
        logging.set_tqdm_hook(before)
