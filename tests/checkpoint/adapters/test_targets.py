import json
from contextlib import closing

import pytest
import torch
import transformers as hf
from adapter_helpers import adapted_weights, gpt2, llama, load, rewrite, saved_adapter, train, vit
from checkpoint_helpers import read_all
from model_zoo import bert
from safetensors.torch import load_file, save_file

from cocktail_hub.checkpoint.adapters.reader import open_adapted
from cocktail_hub.errors import CheckpointError, IncompatibleError

pytestmark = [
    pytest.mark.whole,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),  # what peft says as it saves
]


def test_square_matrices_of_a_model_with_its_own_code_are_taken_as_they_are(tmp_path):
    root = saved_adapter(tmp_path)
    rewrite(root, auto_mapping=None)
    config = json.loads((tmp_path / "base" / "config.json").read_text()) | {"model_type": "of-its-own"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    assert {change.transposed for change in adapted_weights(tmp_path / "base", root).changes.values()} == {False}


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj"]},
    ],
    ids=["saved", "adapted", "as they are"],
)
def test_a_vocabulary_may_have_grown(config, tmp_path):
    torch.manual_seed(0)
    model = llama()
    model.save_pretrained(tmp_path / "base")
    model.resize_token_embeddings(52)
    merged = train(model, tmp_path / "adapter", tmp_path / "base", r=4, **config)
    weights = adapted_weights(tmp_path / "base", tmp_path / "adapter")
    assert weights.config["vocab_size"] == 52
    with closing(open_adapted(weights, tmp_path / "base", tmp_path / "adapter")) as source:
        state = read_all(source, 101)
    loaded = load(type(merged), weights.config, state, tmp_path / "merged").state_dict()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(loaded[name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("base_class", ["BertForMaskedLM", "BertModel", "BertForSequenceClassification"])
def test_an_adapter_brings_its_head_to_a_base_of_another_class(tmp_path, base_class):
    torch.manual_seed(0)
    base = bert(base_class)
    base.save_pretrained(tmp_path / "plain")
    model = hf.BertForSequenceClassification.from_pretrained(
        tmp_path / "plain", num_labels=3, ignore_mismatched_sizes=True
    )
    options = {"target_modules": ["query"], "task_type": "SEQ_CLS", "modules_to_save": ["classifier", "pooler"]}
    merged = train(model, tmp_path / "adapter", tmp_path / "unused", r=2, **options)
    weights = adapted_weights(tmp_path / "plain", tmp_path / "adapter")
    assert weights.config["architectures"] == ["BertForSequenceClassification"]
    brought = f"'{weights.name}' brings a head along ('classifier.bias') but not the names of its labels: "
    assert [note.split("whether")[0] for note in weights.notes] == [brought] * (
        base_class != "BertForSequenceClassification"
    )
    with closing(open_adapted(weights, tmp_path / "plain", tmp_path / "adapter")) as source:
        state = read_all(source, 101)  # pieces that cut rows
    assert not any("predictions" in name for name in state)
    config = {**weights.config, "id2label": {str(i): f"LABEL_{i}" for i in range(3)}}
    loaded = load(hf.BertForSequenceClassification, config, state, tmp_path / "merged").state_dict()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(loaded[name], tensor, rtol=1e-6, atol=1e-7)


def test_an_adapter_of_another_model_is_refused(tmp_path):
    root = saved_adapter(tmp_path)
    gpt2().save_pretrained(tmp_path / "other")
    with pytest.raises(
        CheckpointError, match="was trained on a LlamaForCausalLM, but its base 'base' is a GPT2LMHeadModel"
    ):
        adapted_weights(tmp_path / "other", root)
    rewrite(root, auto_mapping=None)
    with pytest.raises(CheckpointError, match=r"changes 'model\.layers\.0\.self_attn\.q_proj\.weight', which its base"):
        adapted_weights(tmp_path / "other", root)


def test_a_head_that_the_base_ties_is_refused(tmp_path):
    root = saved_adapter(tmp_path, lambda: llama(tie_word_embeddings=True), modules_to_save=["lm_head"])
    with pytest.raises(IncompatibleError, match=r"shares with 'model\.embed_tokens\.weight' \(`tie_word_embeddings`"):
        adapted_weights(tmp_path / "base", root)


@pytest.mark.parametrize("together", [True, False])
def test_factors_for_tied_embeddings_are_refused(tmp_path, together):
    config = {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": together}
    root = saved_adapter(tmp_path, lambda: llama(tie_word_embeddings=True), **config)  # PEFT would merge them twice
    with pytest.raises(IncompatibleError, match=r"shares with 'lm_head\.weight' \(`tie_word_embeddings`"):
        adapted_weights(tmp_path / "base", root)


def test_a_pooler_that_started_at_random_is_refused(tmp_path):
    torch.manual_seed(0)
    bert("BertForMaskedLM").save_pretrained(tmp_path / "plain")
    model = hf.BertForSequenceClassification.from_pretrained(tmp_path / "plain")
    train(model, tmp_path / "adapter", tmp_path / "unused", r=2, target_modules=["query"], task_type="SEQ_CLS")
    with pytest.raises(IncompatibleError, match=r"whose 'bert\.pooler\.dense\.bias' is neither in its base"):
        adapted_weights(tmp_path / "plain", tmp_path / "adapter")


def test_an_adapter_with_names_of_before_transformers_5_finds_its_base(tmp_path):
    torch.manual_seed(0)
    merged = train(vit(), tmp_path / "adapter", tmp_path / "base", r=2, target_modules=["q_proj"])
    vit().save_pretrained(tmp_path / "base", save_original_format=False)
    merged.save_pretrained(tmp_path / "merged", save_original_format=False)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    old = {n.replace("vit.layers.", "vit.encoder.layer."): t for n, t in load_file(file).items()}
    old = {n.replace(".attention.q_proj", ".attention.attention.query"): t for n, t in old.items()}
    assert old.keys() != load_file(file).keys()
    save_file(old, file)
    changed = adapted_weights(tmp_path / "base", tmp_path / "adapter").changes
    assert list(changed) == ["vit.layers.0.attention.q_proj.weight"]
