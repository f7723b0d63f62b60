from __future__ import annotations

import pytest
import torch
from scoring_models import QA, settings_for
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from cocktail_hub.evaluation.examples import check_examples
from cocktail_hub.evaluation.generation import generate
from cocktail_hub.evaluation.measure import LoadedRun

pytestmark = pytest.mark.whole

REFERENCES = [[row["output"]] for row in QA]


def answers(folder, rows=QA, references=REFERENCES, *, seq2seq=False, change=lambda model: None, **keys):
    model = (AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM).from_pretrained(folder).eval()
    change(model)
    settings = settings_for("text2text-generation" if seq2seq else "text-generation", **keys)
    run = LoadedRun(
        name="m",
        folder=folder,
        tokenizer_folder=folder,
        examples=check_examples(rows, settings.kind),
        settings=settings,
        device=torch.device("cpu"),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        model=model,
    )
    return generate(run, references)


def by_hand(folder, text: str, count: int) -> str:
    """The likeliest token, one after the other."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = list(tokenizer(text)["input_ids"])
    first = len(ids)
    while len(ids) < first + count:
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids[first:], skip_special_tokens=True).strip().partition("\n")[0].strip()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_decoder_writes_the_likeliest_token_each_time_whatever_the_batch(llama, size):
    tokenizer = AutoTokenizer.from_pretrained(llama)
    count = max(len(tokenizer(row["output"])["input_ids"]) for row in QA) + 1
    expected = [by_hand(llama, row["input"], count) for row in QA]
    assert answers(llama, batch_size=size) == expected


def test_the_models_own_settings_for_sampling_do_not_count(llama):
    def sample(model):
        model.generation_config.do_sample = True
        model.generation_config.temperature = 5.0
        model.generation_config.num_beams = 3

    assert answers(llama, change=sample) == answers(llama)


def test_a_chat_template_puts_the_question(chat_llama):
    assert answers(chat_llama, chat_template=True) != answers(chat_llama)


def test_a_long_input_loses_its_beginning(llama):
    tail = {"input": "The capital of Italy is", "output": "Rome"}
    long = {"input": 40 * "Rivers flow to the sea. " + tail["input"], "output": "Rome"}
    tokenizer = AutoTokenizer.from_pretrained(llama)
    limit = len(tokenizer(tail["input"])["input_ids"]) + len(tokenizer("Rome")["input_ids"])
    found = answers(llama, [long, tail], [["Rome"], ["Rome"]], max_length=limit)
    assert len(found) == 2
    assert answers(llama, [long], [["Rome"]])


def test_answers_keep_their_lines_where_references_have_several(llama, monkeypatch):
    monkeypatch.setattr(
        "cocktail_hub.evaluation.generation.run_in_batches", lambda costs, *_: ["\none\ntwo\n"] * len(costs)
    )
    assert answers(llama, QA[:1], [["a"]]) == ["one"]
    assert answers(llama, QA[:1], [["a\nb"]]) == ["one\ntwo"]


def test_an_encoder_decoder_answers_too(t5):
    found = answers(t5, seq2seq=True)
    assert len(found) == 5
    assert answers(t5, seq2seq=True, batch_size=1) == found
