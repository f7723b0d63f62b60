from __future__ import annotations

import json
from contextlib import nullcontext

import models
import numpy as np
import pytest
import scoring_models
import torch
from scoring_models import ALL, QA, RANKED, settings_for
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.measure import check_measured, measure
from cocktail_hub.evaluation.metrics import ranking
from cocktail_hub.evaluation.scorer import ScoringJob

pytestmark = pytest.mark.whole

TASKS = {
    "decoder": "text-generation",
    "encoder-decoder": "text2text-generation",
    "encoder": "feature-extraction",
    "reranker": "text-ranking",
    "classifier": "text-ranking",
}
OPTIONS = [
    {"input": "The capital of France is", "options": ["Rome", "Paris", "the sea"], "answer": "Paris"},
    {"input": "The cat sat on", "options": ["the mat", "the sky"], "answer": 0},
    {"input": "is it?", "options": ["yes", "no"], "output": "no"},
]


def measured(folder, rows, kind, tmp_path, *, generated=True, opened=None, **keys):
    def use():
        if opened is not None:
            opened.append(folder)
        return nullcontext(folder)

    job = ScoringJob(
        name="m",
        identity=str(folder),
        folder=use,
        tokenizer_folder=folder,
        tokenizer_identity="t",
        examples=check_measured(rows, kind),
        settings=settings_for(TASKS[kind], **keys),
    )
    return measure(job, kind, tmp_path / "cache", generated=generated)


# -- rankings --------------------------------------------------------------------------------------------------------


def test_an_embedder_ranks_the_passages_of_all_examples(bert, tmp_path):
    rows = RANKED[:4]
    found = measured(bert, rows, "encoder", tmp_path)
    texts = sorted({text for row in rows for text in (*row["pos"], *row["neg"])})
    queries = scoring_models.first_tokens(bert, [row["query"] for row in rows])
    scores = (queries @ scoring_models.first_tokens(bert, texts).T).numpy()
    expected = [
        ranking(line, [texts.index(text) for text in row["pos"]]) for line, row in zip(scores, rows, strict=True)
    ]
    for key in ("first", "mrr", "ndcg"):
        assert found[key] == [one[key] for one in expected]
    assert found["loss"] == pytest.approx(scoring_models.score(bert, rows, "feature-extraction").per_example)


def test_the_right_passages_of_a_query_are_those_of_every_example_with_it(bert, tmp_path):
    twice = [
        {"query": "where", "pos": ["the mat"], "neg": ["the sky"]},
        {"query": "where", "pos": ["a mat"], "neg": []},
    ]
    found = measured(bert, twice, "encoder", tmp_path)
    assert found["ndcg"][0] == found["ndcg"][1]
    assert found["first"][0] == found["first"][1]


def test_a_reranker_ranks_the_passages_of_each_example(reranker, tmp_path):
    rows = RANKED[:4]
    found = measured(reranker, rows, "reranker", tmp_path)
    model, tokenizer = (auto.from_pretrained(reranker) for auto in (AutoModelForSequenceClassification, AutoTokenizer))
    for index, row in enumerate(rows):
        pairs = [(row["query"], text) for text in (*row["pos"], *row["neg"])]
        with torch.no_grad():
            scores = [float(model(**tokenizer(*pair, return_tensors="pt")).logits) for pair in pairs]
        expected = ranking(np.array(scores), range(len(row["pos"])))
        assert {key: found[key][index] for key in expected} == expected


def test_a_passage_that_is_given_twice_counts_once(reranker, tmp_path):
    once = [{"query": "is it?", "pos": ["yes"], "neg": ["no", "the sky"]}, RANKED[0]]
    twice = [{"query": "is it?", "pos": ["yes", "yes"], "neg": ["no", "no", "yes", "the sky"]}, RANKED[0]]
    assert (
        measured(reranker, twice, "reranker", tmp_path)["ndcg"]
        == measured(reranker, once, "reranker", tmp_path)["ndcg"]
    )


def test_scores_that_are_no_numbers_are_refused(bert, tmp_path, monkeypatch):
    monkeypatch.setattr("cocktail_hub.evaluation.measure.contrast", lambda *_: 0.0)
    broken = scoring_models.save_bert(tmp_path / "broken")
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor * float("nan") for name, tensor in load_file(broken / "model.safetensors").items()}
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ScoringError, match="'m' gives a score for example 0 that is not a finite number"):
        measured(broken, RANKED, "encoder", tmp_path)


# -- language models -------------------------------------------------------------------------------------------------


def test_the_loss_of_a_language_model_is_that_of_scoring(llama, tmp_path):
    found = measured(llama, QA, "decoder", tmp_path, generated=False)
    assert found == {"loss": pytest.approx(scoring_models.score(llama, QA, "text-generation").per_example)}


@pytest.mark.parametrize("family", ["llama", "chat_llama"])
def test_the_option_with_the_lowest_mean_loss_of_its_tokens_is_chosen(family, tmp_path, request):
    """The right one is chosen if its tokens alone, without the end of the text, have the lowest mean loss."""
    folder = request.getfixturevalue(family)
    found = measured(folder, OPTIONS, "decoder", tmp_path)
    for index, row in enumerate(check_measured(OPTIONS, "decoder").rows):
        losses = [without_end(folder, row["input"], text) for text in row["options"]]
        assert found["right"][index] == float(losses[0] < min(losses[1:]))


def test_a_chat_template_that_needs_the_end_of_the_text_has_it(tmp_path):
    template = "{% for message in messages %}{{ message['content'] + eos_token }}{% endfor %}"
    folder = scoring_models.save_llama(tmp_path / "chat", template=template)
    assert set(measured(folder, OPTIONS, "decoder", tmp_path, chat_template=True)["right"]) <= {0.0, 1.0}


def without_end(folder, source, target):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    from transformers import AutoModelForCausalLM

    ids = tokenizer(f"{source} {target}", return_offsets_mapping=True)
    start = next(place for place, (_, end) in enumerate(ids["offset_mapping"]) if end > len(source))
    tensor = torch.tensor([ids["input_ids"]])
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder).eval()(tensor).logits[0]
    return float(torch.nn.functional.cross_entropy(logits[start - 1 : -1], tensor[0, start:]))


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_written_answers_are_compared_with_the_references(family, tmp_path, request, monkeypatch):
    said = ["Paris", "yes", "the mat on the dog", "nowhere", "yes!"]
    monkeypatch.setattr("cocktail_hub.evaluation.measure.generate", lambda *_: said)
    kind = "decoder" if family == "llama" else "encoder-decoder"
    found = measured(request.getfixturevalue(family), QA, kind, tmp_path)
    assert found["exact"] == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert found["rouge"] == pytest.approx([1.0, 0.0, 2 * 4 / (5 + 9), 0.0, 1.0])


def test_an_encoder_decoder_chooses_among_options_too(t5, tmp_path):
    assert set(measured(t5, OPTIONS, "encoder-decoder", tmp_path)["right"]) <= {0.0, 1.0}


# -- classifiers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def classifier():
    return models.pair("classifier").folders[0]


LABELLED = [{"text": text, "label": label} for text, label in zip(models.TEXTS, ("good", 0, "bad"), strict=True)]


@pytest.mark.parametrize("pad", [0, None])
def test_a_classifier_gives_the_label_with_the_highest_logit(classifier, pad, tmp_path, monkeypatch):
    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    model.config.pad_token_id = pad
    model.save_pretrained(tmp_path / "c")
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    tokenizer.save_pretrained(tmp_path / "c")
    found = measured(tmp_path / "c", LABELLED, "classifier", tmp_path)
    with torch.no_grad():
        best = [int(model(**tokenizer(row["text"], return_tensors="pt")).logits.argmax()) for row in LABELLED]
    assert found["predicted"] == [("bad", "good")[index] for index in best]
    assert found["label"] == ["good", "bad", "bad"]
    assert found["right"] == [float(a == b) for a, b in zip(found["label"], found["predicted"], strict=True)]


def test_a_label_that_the_model_does_not_have_is_named(classifier, tmp_path):
    rows = [*LABELLED, {"text": "a", "label": "ugly"}]
    with pytest.raises(ScoringError, match="label of example 3 is 'ugly', which 'm' does not have") as caught:
        measured(classifier, rows, "classifier", tmp_path)
    assert "Write one of: bad, good; or its index" in str(caught.value)


# -- what is measured once -------------------------------------------------------------------------------------------


def test_nothing_is_measured_twice(bert, tmp_path):
    opened = []
    first = measured(bert, RANKED, "encoder", tmp_path, opened=opened)
    assert measured(bert, RANKED, "encoder", tmp_path, opened=opened) == first
    assert opened == [bert]
    measured(bert, RANKED[:3], "encoder", tmp_path, opened=opened)
    measured(bert, RANKED, "encoder", tmp_path, opened=opened, max_length=3)
    assert opened == [bert] * 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": "x"}'])
def test_a_damaged_file_is_measured_again(content, bert, tmp_path):
    first = measured(bert, RANKED, "encoder", tmp_path)
    (file,) = (tmp_path / "cache").rglob("*.json")
    good = file.read_text()
    file.write_text(content)
    assert measured(bert, RANKED, "encoder", tmp_path) == first
    assert json.loads(file.read_text()) == json.loads(good)


# -- examples --------------------------------------------------------------------------------------------------------


def test_the_right_option_comes_first_and_is_the_output():
    rows = check_measured(OPTIONS, "decoder").rows
    assert [row["options"] for row in rows] == [("Paris", "Rome", "the sea"), ("the mat", "the sky"), ("no", "yes")]
    assert [row["output"] for row in rows] == ["Paris", "the mat", "no"]


def test_answers_may_be_several():
    rows = check_measured([{"input": "a", "answers": ["b", "c"]}, {"input": "d", "answers": ["e"]}], "decoder").rows
    assert rows[0] == {"input": "a", "output": "b", "answers": ("b", "c")}


def test_columns_are_found_under_other_names():
    rows = [{"sentence": "a", "stars": 1}, {"sentence": "b", "stars": "good"}]
    found = check_measured(rows, "classifier", columns={"text": "sentence", "label": "stars"}).rows
    assert found == ({"text": "a", "label": "1"}, {"text": "b", "label": "good"})
    rows = [{"question": "a", "right": "x"}] * 2
    assert check_measured(rows, "decoder", columns={"input": "question", "output": "right"}).rows[0]["output"] == "x"


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        (QA[:1], "decoder", "There is one example only"),
        ([], "decoder", "There are no examples"),
        ([QA[0], OPTIONS[0]], "decoder", "Some examples have `options` or `answers`, others have not"),
        ([{"input": "a", "options": ["b", "c"], "answer": "d"}] * 2, "decoder", "options 'b', 'c' and the answer 'd'"),
        ([{"input": "a", "options": ["b", "c"], "answer": 2}] * 2, "decoder", "or the index of one, from 0"),
        ([{"input": "a", "options": ["b", "b"], "answer": "b"}] * 2, "decoder", "two or more different options"),
        ([{"text": "a"}] * 2, "classifier", "Example 0 has no key 'label'"),
        (["a", "b"], "classifier", "Example 0 is of type str"),
        ([{"query": "a"}] * 2, "encoder", "Example 0 has no key 'pos'"),
    ],
)
def test_examples_that_cannot_be_measured_say_why(rows, kind, message):
    with pytest.raises(ScoringError, match=message):
        check_measured(rows, kind)


def test_the_models_of_these_tests_have_the_passages_they_rank():
    assert len(ALL) == len(set(ALL))
