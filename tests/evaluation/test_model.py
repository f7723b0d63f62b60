import pytest
import scoring_models
import torch
from transformers import AutoModel, BertModel, GPT2Config, GPT2Model, MPNetConfig, MPNetModel, T5Config, T5Model

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.model import pick_device, position_limit, token_limit

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9}


@pytest.mark.parametrize(
    ("model", "limit"),
    [
        (lambda: BertModel(scoring_models.bert_config()), 32),
        (lambda: MPNetModel(MPNetConfig(**SMALL, max_position_embeddings=20)), 18),
        (lambda: GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, n_positions=24, vocab_size=9)), 24),
        (lambda: T5Model(T5Config(d_model=8, d_kv=8, d_ff=8, num_layers=1, num_heads=1, vocab_size=9)), None),
    ],
)
def test_the_limit_is_the_number_of_usable_positions(model, limit):
    assert position_limit(model()) == limit


def test_roberta_takes_two_tokens_fewer_than_it_has_positions(tmp_path):
    assert position_limit(AutoModel.from_pretrained(scoring_models.save_roberta(tmp_path))) == 10


@pytest.mark.parametrize(
    ("model_max_length", "settings", "limit"),
    [
        (int(1e30), {}, 32),
        (16, {}, 16),
        (16, {"max_length": 8}, 8),
        (16, {"max_length": 99}, 16),
        (16, {"max_length": 99, "lm_cocktail": True, "batch_size": 2}, 32),
    ],
)
def test_the_least_limit_counts(model_max_length, settings, limit):
    model = BertModel(scoring_models.bert_config())
    tokenizer = scoring_models.bert_words(model_max_length)
    assert token_limit(model, tokenizer, scoring_models.settings_for("feature-extraction", **settings)) == limit


def test_auto_is_a_device_that_works():
    device = pick_device("auto")
    assert torch.ones(1, device=device).item() == 1


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_missing_is_refused(device):
    with pytest.raises(ScoringError, match=f"The device '{device}' cannot be used"):
        pick_device(device)
