"""Vectors of plain encoders and of sentence-transformers folders, seen in the losses that they give."""

from __future__ import annotations

import math
import shutil

import pytest
import scoring_models
import torch
from scoring_models import ALL, QUERIES, RANKED, first_tokens, info_nce
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from transformers import AutoModel, AutoTokenizer

from cocktail_hub.errors import ScoringError
from cocktail_hub.search.softmax import weigh

pytestmark = pytest.mark.whole


def score(folder, examples=RANKED, **kwargs):
    return scoring_models.score(folder, examples, "sentence-similarity", **kwargs)


def test_a_plain_encoder_s_vector_is_its_first_token_s_at_length_one(bert):
    known = info_nce(RANKED, first_tokens(bert, QUERIES), first_tokens(bert, ALL), ALL)
    losses = score(bert)
    assert losses.per_example == pytest.approx(known, abs=1e-4)
    assert losses.mean == pytest.approx(sum(known) / len(known), abs=1e-4)
    assert (losses.texts, losses.reading) == (5 + len(ALL), "cls pooling, cosine")


def test_a_sentence_transformers_folder_makes_vectors_its_own_way(embedder):
    """Mean pooling, Dense, normalisation, and a prompt before queries only."""
    model = SentenceTransformer(str(embedder), device="cpu")
    queries = torch.from_numpy(model.encode(["question: " + query for query in QUERIES])).double()
    known = info_nce(RANKED, queries, torch.from_numpy(model.encode(ALL)).double(), ALL)
    losses = score(embedder)
    assert losses.per_example == pytest.approx(known, abs=1e-4)
    assert losses.reading == "mean pooling, Dense, cosine"


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_the_model_s_own_similarity_is_used(tmp_path, bert, similarity):
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    model = SentenceTransformer(
        modules=[Transformer(str(bert)), Pooling(16, pooling_mode="max")], device="cpu", similarity_fn_name=similarity
    )
    model.save(str(tmp_path), create_model_card=False)
    table = model.similarity(model.encode(QUERIES), model.encode(ALL)).double() / 0.05
    known = []
    for line, row in zip(table, RANKED, strict=True):
        wrong = torch.tensor([text not in row["pos"] for text in ALL])
        one = [
            torch.logsumexp(torch.cat([line[wrong], line[ALL.index(p)][None]]), 0) - line[ALL.index(p)]
            for p in row["pos"]
        ]
        known.append(float(sum(one) / len(one)))
    losses = score(tmp_path)
    assert losses.per_example == pytest.approx(known, rel=1e-4, abs=1e-4)
    assert losses.reading == f"max pooling, {similarity}"


@pytest.mark.parametrize("pooling", ["mean", "max", "lasttoken"])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_and_normalisation_of_a_plain_encoder_can_be_set(bert, pooling, normalize):
    tokenizer, model = AutoTokenizer.from_pretrained(bert), AutoModel.from_pretrained(bert).eval()

    def vector(text):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        one = {"mean": hidden.mean(0), "max": hidden.amax(0), "lasttoken": hidden[-1]}[pooling].double()
        return torch.nn.functional.normalize(one, dim=0) if normalize else one

    rows = [RANKED[0], RANKED[3]]
    texts = sorted({text for row in rows for text in (*row["pos"], *row["neg"])})
    known = info_nce(rows, [vector(row["query"]) for row in rows], [vector(text) for text in texts], texts)
    losses = score(bert, rows, pooling=pooling, normalize=normalize)
    assert losses.per_example == pytest.approx(known, rel=1e-4, abs=1e-4)
    assert losses.reading == f"{pooling} pooling, {'cosine' if normalize else 'dot'}"


@pytest.mark.parametrize("folder", ["bert", "embedder"])
def test_long_texts_are_cut_at_the_model_s_own_maximum_and_reported(request, folder):
    """32 positions, two of which are [CLS] and [SEP]."""
    path = request.getfixturevalue(folder)
    rows = [*RANKED[:2], {"query": "the cat " * 40, "pos": ["the dog " * 40], "neg": ["on the mat"]}]
    prompt = 1 if folder == "embedder" else 0
    short = [*RANKED[:2], {"query": "the cat " * (15 - prompt), "pos": ["the dog " * 15], "neg": ["on the mat"]}]
    losses = score(path, rows)
    assert losses.truncated == 2
    assert score(path, short).truncated == 0
    if not prompt:
        assert losses.per_example == pytest.approx(score(path, short).per_example, abs=1e-5)


def test_roberta_s_positions_begin_behind_its_padding_index(tmp_path):
    """12 position embeddings, the first two unused: 10 tokens; a naive limit of 12 would fail with an index error."""
    folder = scoring_models.save_roberta(tmp_path)
    losses = score(folder, [{"query": "the cat " * 9, "pos": ["on the mat"], "neg": ["in the park"]}])
    assert losses.truncated == 1


@pytest.mark.parametrize("folder", ["bert", "embedder"])
def test_max_length_bounds_further_and_never_leaves_nothing(request, folder):
    path = request.getfixturevalue(folder)
    assert score(path, max_length=4).truncated > 0
    with pytest.raises(ScoringError, match="A text of example 0 cannot be scored with 'm': nothing of it fits into 2"):
        score(path, max_length=2)


def test_a_causal_model_and_an_encoder_decoder_can_be_encoders(llama, t5):
    assert score(llama, pooling="lasttoken").reading == "lasttoken pooling, cosine"
    assert score(t5, pooling="mean").per_example == pytest.approx(
        score(t5, pooling="mean", batch_size=1).per_example, abs=1e-5
    )


def test_a_static_embedding_is_scored(tmp_path):
    torch.manual_seed(0)
    module = StaticEmbedding(scoring_models.bert_words(), embedding_dim=8)
    SentenceTransformer(modules=[module], device="cpu").save(str(tmp_path), create_model_card=False)
    rows = [{"query": "capital of France", "pos": ["Paris"], "neg": ["Rome", "the dog ran"]}, RANKED[1]]
    losses = score(tmp_path, rows)
    assert losses.per_example == pytest.approx(score(tmp_path, rows, batch_size=1).per_example, abs=1e-5)
    assert losses.truncated == 0


def test_bfloat16_works_with_every_module(embedder):
    assert score(embedder, dtype="bfloat16").mean == pytest.approx(score(embedder).mean, rel=0.1)


def test_missing_weights_are_refused_but_an_unused_pooler_may_miss(tmp_path, bert, llama):
    model = AutoModel.from_pretrained(bert)
    model.save_pretrained(tmp_path, state_dict={k: v for k, v in model.state_dict().items() if "pooler" not in k})
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path)
    assert score(tmp_path).per_example == pytest.approx(score(bert).per_example)
    state = {k: v for k, v in model.state_dict().items() if "layer.1." not in k}
    broken = shutil.copytree(tmp_path, tmp_path / "broken")
    model.save_pretrained(broken, state_dict=state)
    with pytest.raises(ScoringError, match="'m' lacks 16 of the weights of a BertModel"):
        score(broken)


def test_first_token_modules_and_a_plain_encoder_are_the_same_and_can_be_compared(tmp_path, bert):
    """As bge's folders have modules, and fine-tunes of them often have none."""
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = [Transformer(str(bert)), Pooling(16, pooling_mode="cls"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path), create_model_card=False)
    with_modules, plain = score(tmp_path), score(bert)
    assert with_modules.per_example == pytest.approx(plain.per_example, abs=1e-5)
    assert weigh([with_modules, plain]).values == pytest.approx((0.5, 0.5), abs=1e-6)


def test_a_router_sends_queries_and_passages_their_own_way(tmp_path, bert):
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    other = scoring_models.save_bert(tmp_path / "other", seed=5)
    routes = [[Transformer(str(folder)), Pooling(16, pooling_mode="mean")] for folder in (bert, other)]
    model = SentenceTransformer(modules=[Router.for_query_document(*routes)], device="cpu")
    model.save(str(tmp_path / "router"), create_model_card=False)
    table = model.similarity(model.encode_query(QUERIES), model.encode_document(ALL))
    known = [
        float(
            torch.logsumexp((line[[text not in row["pos"] for text in ALL]] - line[ALL.index(row["pos"][0])]) / 0.05, 0)
        )
        for line, row in zip(table.double(), RANKED, strict=True)
    ]
    losses = score(tmp_path / "router")
    assert losses.per_example[0] == pytest.approx(math.log1p(math.exp(known[0])), rel=1e-4, abs=1e-4)
    assert losses.per_example == pytest.approx(score(tmp_path / "router", batch_size=1).per_example, abs=1e-5)
