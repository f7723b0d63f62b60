import json
import shutil

import pytest
import scoring_models
import torch
from scoring_models import QA
from transformers import AutoModelForCausalLM, AutoTokenizer, ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

from cocktail_hub.errors import ScoringError, SourceError

pytestmark = pytest.mark.whole


def score(folder, examples=QA, **kwargs):
    return scoring_models.score(folder, examples, "text-generation", **kwargs)


def expected(folder, text, output, *, special=True):
    """One text at a time: the mean of -log p over the tokens behind the last one that ends before the output."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=special)
    ids = [*encoding["input_ids"], tokenizer.eos_token_id] if special else encoding["input_ids"]
    boundary = text.rindex(output)
    start = sum(end <= boundary for _, end in encoding["offset_mapping"])
    with torch.no_grad():
        log_p = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)
    return -sum(float(log_p[i - 1, ids[i]]) for i in range(start, len(ids))) / (len(ids) - start)


TEXTS = [
    "The capital of France is Paris",
    "Question: is it? Answer: no",
    "The cat sat on\nthe mat while the dog ran in the park",
    "Rivers flow to the sea; mountains rise to the sky.",
    "what is the answer? yes",
]


def test_the_loss_is_the_mean_cross_entropy_of_the_output_s_tokens(llama):
    losses = score(llama)
    known = [expected(llama, text, row["output"]) for text, row in zip(TEXTS, QA, strict=True)]
    assert losses.per_example == pytest.approx(known, rel=1e-5)
    assert losses.mean == pytest.approx(sum(known) / 5, rel=1e-5)
    assert (losses.texts, losses.truncated, losses.reading) == (5, 0, "plain text")


def test_bos_is_read_but_not_scored(chat_llama):
    known = [expected(chat_llama, text, row["output"]) for text, row in zip(TEXTS, QA, strict=True)]
    assert score(chat_llama).per_example == pytest.approx(known, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_the_batch_size_does_not_change_the_loss(llama, batch_size):
    assert score(llama, batch_size=batch_size).per_example == pytest.approx(score(llama).per_example, abs=1e-5)


def test_the_seed_does_not_change_the_loss(llama):
    assert score(llama, seed=1) == score(llama)


def test_a_missing_pad_token_is_no_problem(llama):
    assert AutoTokenizer.from_pretrained(llama).pad_token is None
    assert len(score(llama, batch_size=5).per_example) == 5


def test_a_chat_is_scored_from_the_output_to_the_end_of_the_turn(chat_llama):
    losses = score(chat_llama, chat_template=True)
    known = [
        expected(
            chat_llama,
            f"<|user|>\n{row['input'].strip()}<|end|>\n<|assistant|>\n{row['output']}<|end|>",
            row["output"] + "<|end|>",
            special=False,
        )
        for row in QA
    ]
    assert losses.per_example == pytest.approx(known, rel=1e-5)
    assert losses.reading == "chat template"


def test_without_a_template_the_plain_text_is_scored_and_it_says_so(llama):
    assert score(llama, chat_template=True) == score(llama)


def test_the_tokenizer_of_another_folder_can_read_for_all(llama, chat_llama):
    assert score(llama, chat_template=True, tokenizer_folder=chat_llama).reading == "chat template"


def test_a_long_input_loses_its_beginning_and_is_reported(llama):
    """64 positions: the loss is that of the text whose beginning is cut off."""
    tokenizer = AutoTokenizer.from_pretrained(llama)
    row = {"input": "0 1 2 3 4 5 6 7 8 9 " * 10 + "The capital of France is", "output": "Paris"}
    losses = score(llama, [row, QA[4]])
    assert losses.truncated == 1
    ids = tokenizer(row["input"] + " Paris")["input_ids"]
    tail = tokenizer.decode(ids[len(ids) - 63 :])
    assert losses.per_example[0] == pytest.approx(expected(llama, tail, "Paris"), rel=1e-5)


def test_max_length_bounds_further(llama):
    lengths = [len(AutoTokenizer.from_pretrained(llama)(text)["input_ids"]) + 1 for text in TEXTS]
    losses = score(llama, max_length=8)
    assert losses.truncated == sum(length > 8 for length in lengths) == 3
    assert losses.tokens == sum(min(length, 8) for length in lengths)


def test_an_output_that_does_not_fit_at_all_names_the_example(llama):
    with pytest.raises(ScoringError, match="Example 0 cannot be scored with 'm': none of its output fits into 1") as e:
        score(llama, max_length=1)
    assert (e.value.model, e.value.example) == ("m", 0)


def test_lm_cocktail_s_loss_reports_a_text_that_is_all_cut(llama):
    rows = [QA[4], {"input": "0 1 2 3 4 5 6 7 8 9", "output": "yes"}]
    with pytest.raises(ScoringError, match="Example 1 cannot be scored with 'm': none of its output fits into 10"):
        score(llama, rows, max_length=10, lm_cocktail=True, batch_size=2)


def test_lm_cocktail_s_loss_is_the_original_s_formula(llama):
    """Batches of 2: the mean of three means over tokens; texts are `input + " " + output`, whatever input ends in."""
    tokenizer = AutoTokenizer.from_pretrained(llama)
    batches = []
    for rows in (QA[:2], QA[2:4], QA[4:]):
        sums, counts = 0.0, 0
        for row in rows:
            text = f"{row['input']} {row['output']}"
            count = len(tokenizer(text)["input_ids"]) + 1 - len(tokenizer(row["input"])["input_ids"])
            sums += expected(llama, text, " " + row["output"]) * count
            counts += count
        batches.append(sums / counts)
    assert score(llama, lm_cocktail=True, batch_size=2).mean == pytest.approx(sum(batches) / 3, rel=1e-5)


def test_bfloat16_is_close_and_is_not_float32(llama):
    exact, rounded = score(llama).mean, score(llama, dtype="bfloat16").mean
    assert rounded == pytest.approx(exact, rel=0.02)
    assert rounded != exact


def test_a_tokenizer_without_offsets_is_scored_exactly(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=384, initializer_range=0.3, **sizes)).save_pretrained(tmp_path)
    ByT5Tokenizer().save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = torch.tensor([[*(byte + 3 for byte in "né: où".encode()), 1]])
    with torch.no_grad():
        log_p = torch.log_softmax(model(ids).logits[0].double(), dim=-1)
    known = -sum(float(log_p[i - 1, ids[0, i]]) for i in range(4, 9)) / 5
    losses = score(tmp_path, [{"input": "né:", "output": "où"}])
    assert losses.per_example == pytest.approx([known], rel=1e-5)


def test_a_loss_that_is_nan_names_model_and_example(tmp_path):
    """The embedding of `s` in `yes` is NaN, so examples without it are fine."""
    scoring_models.save_llama(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    token = AutoTokenizer.from_pretrained(tmp_path)(" yes")["input_ids"][-1]
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = torch.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(ScoringError, match="The loss of 'm' on example 4 is nan") as caught:
        score(tmp_path)
    assert (caught.value.model, caught.value.example) == ("m", 4)


def test_missing_weights_are_refused_rather_than_random(tmp_path, bert):
    with pytest.raises(ScoringError, match="'m' lacks 6 of the weights of a BertLMHeadModel"):
        score(bert)


def test_a_folder_that_is_no_model_is_a_source_error(tmp_path, llama):
    with pytest.raises(SourceError, match="The tokenizer of 'm' cannot be loaded for scoring"):
        score(tmp_path)
    shutil.copytree(llama, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text(json.dumps({"model_type": "nonesuch"}))
    with pytest.raises(SourceError, match="of 'm' cannot be loaded for scoring"):
        score(tmp_path / "copy")


def test_a_template_that_changes_outputs_names_the_example(tmp_path):
    template = "{% for m in messages %}{{ m['content'] | replace('mat', 'rug') }}{% endfor %}"
    scoring_models.save_llama(tmp_path, template=template)
    with pytest.raises(ScoringError, match="Example 2: the chat template changes the output"):
        score(tmp_path, chat_template=True)
