import pytest
import scoring_models
import torch
from scoring_models import QA
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from cocktail_hub.errors import ScoringError

pytestmark = pytest.mark.whole


def score(folder, examples=QA, **kwargs):
    return scoring_models.score(folder, examples, "text2text-generation", **kwargs)


def expected(folder, row):
    """The decoder reads the start token and the labels but the last; it must predict the labels, EOS included."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    labels = tokenizer(row["output"], return_tensors="pt").input_ids
    start = torch.full((1, 1), model.config.decoder_start_token_id)
    source = tokenizer(row["input"], return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(input_ids=source, decoder_input_ids=torch.cat([start, labels[:, :-1]], dim=1)).logits
    log_p = torch.log_softmax(logits[0].double(), dim=-1)
    assert labels[0, -1] == tokenizer.eos_token_id
    return -float(log_p.gather(1, labels[0][:, None]).mean())


def test_the_loss_is_the_mean_cross_entropy_of_the_labels(t5):
    losses = score(t5)
    assert losses.per_example == pytest.approx([expected(t5, row) for row in QA], rel=1e-5)
    assert (losses.texts, losses.truncated) == (5, 0)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_batch_size_does_not_change_the_loss(t5, batch_size):
    assert score(t5, batch_size=batch_size).per_example == pytest.approx(score(t5).per_example, abs=1e-5)


def test_lm_cocktail_s_loss_is_the_mean_of_the_model_s_own_loss_over_batches(t5):
    tokenizer = AutoTokenizer.from_pretrained(t5)
    model = AutoModelForSeq2SeqLM.from_pretrained(t5, dtype=torch.float32).eval()
    means = []
    for rows in (QA[:2], QA[2:4], QA[4:]):
        batch = tokenizer([row["input"] for row in rows], padding=True, return_tensors="pt")
        labels = tokenizer([row["output"] for row in rows], padding=True, return_tensors="pt").input_ids
        labels[labels == tokenizer.pad_token_id] = -100
        with torch.no_grad():
            means.append(
                float(
                    model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels)
                    .loss
                )
            )  # fmt: skip
    assert score(t5, lm_cocktail=True, batch_size=2).mean == pytest.approx(sum(means) / 3, rel=1e-5)


def test_long_texts_are_cut_within_their_special_tokens_and_reported(t5):
    losses = score(t5, max_length=4)
    assert losses.truncated == 5
    short = {"input": "The cat sat", "output": "the mat while"}
    assert losses.per_example[2] == pytest.approx(expected(t5, short), rel=1e-5)


def test_a_text_that_is_all_cut_names_the_example(t5):
    with pytest.raises(ScoringError, match=r"Example 0 .* no token of its input or output is left within 1 tokens"):
        score(t5, max_length=1)


def test_an_empty_input_is_scored(t5):
    row = {"input": "", "output": "Paris"}
    assert score(t5, [row]).per_example == pytest.approx([expected(t5, row)], rel=1e-5)


def test_a_decoder_is_refused(llama):
    with pytest.raises(Exception, match="'m' cannot be loaded for scoring"):
        score(llama)
