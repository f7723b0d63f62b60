import math

import pytest
import scoring_models
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from cocktail_hub.errors import ScoringError

pytestmark = pytest.mark.whole

RANKED = scoring_models.RANKED[:4]


def score(folder, examples=RANKED, **kwargs):
    return scoring_models.score(folder, examples, "text-ranking", **kwargs)


def expected(score_pair, rows=RANKED):
    losses = []
    for row in rows:
        wrong = sum(math.exp(score_pair(row["query"], text)) for text in row["neg"])
        right = [math.exp(score_pair(row["query"], text)) for text in row["pos"]]
        losses.append(sum(-math.log(one / (one + wrong)) for one in right) / len(right))
    return losses


def classifier(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def logits(query, text):
        with torch.no_grad():
            return model(**tokenizer(query, text, return_tensors="pt")).logits[0].tolist()

    return logits


def test_one_logit_is_the_score(reranker):
    logits = classifier(reranker)
    losses = score(reranker)
    assert losses.per_example == pytest.approx(expected(lambda q, t: logits(q, t)[0]), abs=1e-5)
    assert (losses.texts, losses.truncated, losses.reading) == (14, 0, "1 logit")


def test_of_two_logits_the_second_is_for_relevant(two_logits):
    logits = classifier(two_logits)
    losses = score(two_logits)
    assert losses.per_example == pytest.approx(expected(lambda q, t: logits(q, t)[1] - logits(q, t)[0]), abs=1e-5)
    assert losses.reading == "2 logits"


@pytest.mark.parametrize("folder", ["reranker", "two_logits"])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_batch_size_does_not_change_the_loss(request, folder, batch_size):
    path = request.getfixturevalue(folder)
    assert score(path, batch_size=batch_size).per_example == pytest.approx(score(path).per_example, abs=1e-5)


def test_the_seed_chooses_among_negatives_only_where_there_are_too_many(reranker):
    assert score(reranker, seed=1) == score(reranker, seed=2)
    assert len({score(reranker, seed=seed, negatives=1).mean for seed in range(6)}) > 1


def test_a_causal_reranker_scores_yes_against_no(llama):
    model = CrossEncoder(str(llama), device="cpu")
    model.tokenizer.pad_token = model.tokenizer.eos_token
    known = expected(lambda q, t: float(model.predict([(q, t)], activation_fn=torch.nn.Identity())[0]))
    losses = score(llama)
    assert losses.per_example == pytest.approx(known, abs=1e-5)
    assert losses.per_example == pytest.approx(score(llama, batch_size=1).per_example, abs=1e-5)


def test_a_saved_causal_reranker_keeps_its_own_words(tmp_path, llama):
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    inner = Transformer(str(llama), transformer_task="text-generation")
    inner.tokenizer.pad_token = inner.tokenizer.eos_token
    model = CrossEncoder(modules=[inner, LogitScore(true_token_id=40)], device="cpu")
    model.save(str(tmp_path), create_model_card=False)
    known = expected(lambda q, t: float(model.predict([(q, t)], activation_fn=torch.nn.Identity())[0]))
    assert score(tmp_path).per_example == pytest.approx(known, abs=1e-5)


def test_a_causal_reranker_without_words_for_yes_and_no_is_refused(tmp_path, llama):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    tokenizer = scoring_models.t5_words()
    for word in ("yes", "no"):
        assert tokenizer.convert_tokens_to_ids(word) is not None
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(vocab_size=300, **sizes)).save_pretrained(tmp_path)
    words = tokenizer.backend_tokenizer.to_str().replace('"yes"', '"yess"').replace('"no"', '"noo"')
    from tokenizers import Tokenizer

    type(tokenizer)(
        tokenizer_object=Tokenizer.from_str(words), pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    ).save_pretrained(tmp_path)
    with pytest.raises(ScoringError, match="has no two different tokens for 'yes' and 'no'"):
        score(tmp_path)


@pytest.mark.parametrize("pad", [None, 0])
def test_a_classifier_that_does_not_know_the_padding_is_scored_pair_by_pair(tmp_path, pad):
    torch.manual_seed(0)
    tokenizer = scoring_models.byte_bpe()
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), num_labels=1, initializer_range=0.3, pad_token_id=pad, **sizes)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    logits = classifier(tmp_path)
    assert score(tmp_path, batch_size=4).per_example == pytest.approx(expected(lambda q, t: logits(q, t)[0]), abs=1e-5)


def test_a_random_head_is_refused(bert):
    with pytest.raises(ScoringError, match=r"'m' lacks 2 of the weights of a BertForSequenceClassification") as caught:
        score(bert)
    assert caught.value.model == "m"


def test_more_than_two_logits_are_refused(tmp_path):
    scoring_models.save_reranker(tmp_path, labels=3)
    with pytest.raises(ScoringError, match="'m' has 3 logits per pair"):
        score(tmp_path)


def test_an_example_without_negatives_is_refused(reranker):
    for neg in ([], ["a"]):
        with pytest.raises(ScoringError, match="Example 1 has no negatives") as caught:
            score(reranker, [RANKED[0], {"query": "q", "pos": ["a"], "neg": neg}])
        assert caught.value.example == 1


def test_long_pairs_are_cut_and_reported(reranker):
    rows = [RANKED[0], {"query": "the cat", "pos": ["the dog " * 40], "neg": ["on the mat"]}]
    losses = score(reranker, rows)
    assert losses.truncated == 1
    short = [RANKED[0], {"query": "the cat", "pos": ["the dog " * 13 + "the"], "neg": ["on the mat"]}]
    assert score(reranker, short).truncated == 0
    assert losses.per_example == pytest.approx(score(reranker, short).per_example, abs=1e-5)
    with pytest.raises(ScoringError, match="A text of example 0 cannot be scored with 'm': nothing of it fits into 3"):
        score(reranker, max_length=3)
