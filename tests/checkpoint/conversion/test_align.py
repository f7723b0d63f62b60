import re
import subprocess
import sys

import pytest
import torch
import transformers as hf
from checkpoint_helpers import config_of, mappings, read, saved, state_of, tied_pair, write
from model_zoo import FAMILIES, bert, qwen2_moe

from cocktail_hub.errors import IncompatibleError, RecipeError


def whats(mapping):
    return {(note.what, note.tensor) for note in mapping.notes}


@pytest.fixture
def base(tmp_path):
    torch.manual_seed(0)
    return saved(bert("BertModel"), tmp_path / "base")


@pytest.fixture
def masked(tmp_path):
    torch.manual_seed(1)
    return saved(bert("BertForMaskedLM"), tmp_path / "masked")


def test_equal_names_are_read_as_they_are_without_transformers(tmp_path, base):
    write(tmp_path / "other", state_of(base), config_of(base))
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from cocktail_hub.checkpoint.conversion.align import align\n"
        "from cocktail_hub.checkpoint.files import LocalFiles\n"
        "from cocktail_hub.checkpoint.weight_files import read_weight_files\n"
        "roots = [Path(p) for p in sys.argv[1:]]\n"
        "weights = [read_weight_files(LocalFiles(p)) for p in roots]\n"
        "mappings = align(weights, [json.loads((p / 'config.json').read_text()) for p in roots])\n"
        "assert all(mapping.plain for mapping in mappings), mappings\n"
        "assert 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, base, tmp_path / "other"], check=True)


def test_buffers_that_the_model_computes_may_be_in_some_only(tmp_path, base):
    state = {**state_of(base), "embeddings.position_ids": torch.arange(16)[None]}
    old = write(tmp_path / "old", state, config_of(base))
    newer = {**state_of(base), "embeddings.position_ids": torch.arange(8, dtype=torch.int32)}
    odd = write(tmp_path / "odd", newer, config_of(base))
    _, without = mappings(old, base)
    assert (without.absent, whats(without)) == (
        {"embeddings.position_ids"},
        {("rebuilt", "embeddings.position_ids")},
    )
    _, with_it = mappings(base, old)
    assert (with_it.absent, whats(with_it)) == (frozenset(), {("rebuilt", "embeddings.position_ids")})
    _, other_shape = mappings(old, odd)
    assert other_shape.absent == {"embeddings.position_ids"}


def test_a_prefix_is_found_both_ways(tmp_path, base, masked):
    missing = {"pooler.*": "first", "cls.*": "drop"}
    _, mapping = mappings(base, masked, missing=missing)
    assert mapping.names["embeddings.word_embeddings.weight"] == "bert.embeddings.word_embeddings.weight"
    assert mapping.absent == {"pooler.dense.weight", "pooler.dense.bias"}
    assert ("dropped", "cls.predictions.bias") in whats(mapping)
    assert ("renamed", "embeddings.word_embeddings.weight") in whats(mapping)
    own, theirs = read(mapping, masked), state_of(masked)
    assert all(torch.equal(tensor, theirs[f"bert.{name}"]) for name, tensor in own.items())


def test_a_missing_tensor_names_the_remedy(base, masked):
    with pytest.raises(IncompatibleError) as caught:
        mappings(base, masked)
    message = str(caught.value)
    assert "Cannot mix 'masked': it lacks 'pooler.dense.bias' and 1 more tensors, which 'base' has." in message
    assert r"`missing: {'pooler\\..*': first, 'cls\\..*': drop}`, which leaves out 'cls." in message
    mappings(base, masked, missing={r"pooler\..*": "first", r"cls\..*": "drop"})
    assert (caught.value.model, caught.value.tensor) == ("masked", "pooler.dense.bias")


def test_an_extra_tensor_names_the_remedy(base, masked):
    with pytest.raises(
        IncompatibleError, match=r"(?s)it has 'cls\.\S+' and \d more .*List 'masked' first, or leave it out"
    ):
        mappings(base, masked, missing={"pooler.*": "first"})


def test_a_remedy_taken_from_the_message_works(base, masked):
    missing = {}
    for choice in ("first", "drop"):
        with pytest.raises(IncompatibleError) as caught:
            mappings(base, masked, missing=missing)
        pattern = re.search(r"\{('.*'): " + choice, str(caught.value))[1]
        missing[eval(pattern)] = choice
    mappings(base, masked, missing=missing)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ({"pooler.*": "frist"}, "Did you mean 'first'?"),
        ({"pooler.*": 0}, "cannot be 0"),
        ({"(": "first"}, "not a regular expression"),
        ({"pooler.*": "first", "cls.*": "drop", "polar.*": "first"}, "no ingredient has a tensor of such a name"),
    ],
)
def test_a_malformed_policy_is_refused(base, masked, missing, words):
    with pytest.raises(RecipeError, match=re.escape(words)):
        mappings(base, masked, missing=missing)


def test_a_policy_for_one_side_does_not_serve_the_other(base, masked):
    with pytest.raises(IncompatibleError, match=r"lacks 'pooler\.dense\.bias'"):
        mappings(base, masked, missing={"pooler.*": "drop", "cls.*": "first"})


def test_a_wrapped_first_ingredient_is_unwrapped_in_the_mix(tmp_path, base):
    wrapped = write(tmp_path / "w", {f"module._orig_mod.{n}": t for n, t in state_of(base).items()}, config_of(base))
    first, other = mappings(wrapped, base)
    assert first.specs.keys() == other.specs.keys() == state_of(base).keys()
    assert torch.equal(read(first, wrapped)["pooler.dense.bias"], state_of(base)["pooler.dense.bias"])


def test_a_name_that_only_looks_wrapped_is_kept(tmp_path):
    state = {"module.weight": torch.ones(2), "head.weight": torch.ones(2)}
    first, _ = mappings(write(tmp_path / "a", state, {}), write(tmp_path / "b", state, {}))
    assert set(first.specs) == set(state)


def test_another_vocabulary_is_said_in_those_words(tmp_path, base):
    config = hf.BertConfig(**{**config_of(base), "vocab_size": 40})
    larger = saved(hf.BertModel(config), tmp_path / "larger")
    with pytest.raises(IncompatibleError) as caught:
        mappings(base, larger)
    assert (
        "its vocabulary has 40 entries, that of 'base' 32: 'embeddings.word_embeddings.weight' has shape [40, 16], but "
        "[32, 16] in 'base'" in str(caught.value)
    )


def test_another_shape_names_model_tensor_and_both_shapes(tmp_path, base):
    state = state_of(base) | {"pooler.dense.weight": torch.zeros(16, 17)}
    other = write(tmp_path / "other", state, config_of(base))
    with pytest.raises(
        IncompatibleError, match=r"'pooler.dense.weight' has shape \[16, 17\], but \[16, 16\] in 'base'"
    ):
        mappings(base, other)


def test_an_integer_for_a_float_is_refused(tmp_path, base):
    state = state_of(base) | {"pooler.dense.bias": torch.zeros(16, dtype=torch.int64)}
    other = write(tmp_path / "other", state, config_of(base))
    with pytest.raises(IncompatibleError, match=r"'pooler\.dense\.bias' is I64, but F32 in 'base'"):
        mappings(base, other)


def test_another_float_is_fine(tmp_path, base):
    half = write(tmp_path / "half", {n: t.bfloat16() for n, t in state_of(base).items()}, config_of(base))
    assert mappings(base, half)[1].plain


def test_models_with_their_own_code_are_matched_by_name_alone(tmp_path):
    config = {"model_type": "something_new", "architectures": ["NewModel"]}
    a = write(tmp_path / "a", {"x": torch.ones(2), "y.weight": torch.ones(2)}, config)
    b = write(tmp_path / "b", {"module.x": torch.ones(2), "module.y.weight": torch.zeros(2)}, config)
    _, mapping = mappings(a, b)
    assert read(mapping, b)["y.weight"].tolist() == [0, 0]
    c = write(tmp_path / "c", {"x": torch.ones(2)}, config)
    with pytest.raises(IncompatibleError, match=r"(?s)cannot build NewModel of type 'something_new'.*by name alone"):
        mappings(a, c)
    assert mappings(a, c, missing={r"y\.weight": "first"})[1].absent == {"y.weight"}


def renamed_llamas(tmp_path, **changes):
    """A Llama, and one without prefix, so that names must be matched; `changes` are made in the configs of both."""
    config = {**config_of(tied_pair(tmp_path, head=torch.clone)[0]), **changes}
    state = state_of(tmp_path / "tied")
    bare = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    return write(tmp_path / "a", state, config), write(tmp_path / "b", bare, config)


def test_a_class_that_transformers_does_not_have_is_taken_for_the_base_of_its_type(tmp_path):
    a, b = renamed_llamas(tmp_path, architectures=["LLaMAForCausalLM"])
    assert mappings(a, b)[1].names["model.norm.weight"] == "norm.weight"


def test_a_config_that_transformers_refuses_is_refused_in_its_words(tmp_path):
    a, b = renamed_llamas(tmp_path, hidden_size="sixteen")
    with pytest.raises(IncompatibleError, match=r"cannot build LlamaForCausalLM .*'hidden_size' expected int, got str"):
        mappings(a, b)


def test_a_config_may_hold_the_infinity_that_transformers_writes(tmp_path):
    config = hf.Mamba2Config(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4, num_heads=4, head_dim=8, n_groups=1
    )
    a = saved(hf.Mamba2Model(config), tmp_path / "a")
    assert config_of(a)["time_step_limit"][1] == {"__float__": "Infinity"}
    b = write(tmp_path / "b", {f"backbone.{n}": t for n, t in state_of(a).items()}, config_of(a))
    assert mappings(a, b)[1].names["norm_f.weight"] == "backbone.norm_f.weight"


def test_a_copy_of_a_tied_tensor_is_left_out(tmp_path):
    tied, both = tied_pair(tmp_path, head=torch.clone)
    _, mapping = mappings(tied, both)
    assert whats(mapping) == {("tied", "lm_head.weight")}
    assert torch.equal(read(mapping, both)["model.embed_tokens.weight"], state_of(both)["lm_head.weight"])


def test_a_tied_tensor_is_read_where_it_is(tmp_path):
    tied, both = tied_pair(tmp_path, head=torch.clone)
    _, mapping = mappings(both, tied)
    assert mapping.names["lm_head.weight"] == "model.embed_tokens.weight"
    assert whats(mapping) == {("tied", "lm_head.weight")}


@pytest.mark.parametrize("rows", [24, 40])
def test_a_head_of_another_shape_than_the_tensor_it_is_tied_to_is_refused(tmp_path, rows):
    tied, both = tied_pair(tmp_path, head=lambda weight: torch.cat([weight, weight])[:rows].contiguous())
    with pytest.raises(IncompatibleError, match=r"'both': it has 'lm_head\.weight', which '.*tied' lacks"):
        mappings(tied, both)


def test_an_untied_first_takes_the_head_of_one_that_ties_by_its_own_config(tmp_path):
    tied, both = tied_pair(tmp_path, head=lambda weight: weight + 1)
    untied = write(tmp_path / "untied", state_of(both), {**config_of(both), "tie_word_embeddings": False})
    _, mapping = mappings(untied, tied)
    assert mapping.names["lm_head.weight"] == "model.embed_tokens.weight"
    loose = write(tmp_path / "loose", state_of(tied), config_of(untied))
    with pytest.raises(IncompatibleError, match=r"'loose': it lacks 'lm_head\.weight'"):
        mappings(untied, loose)


def test_experts_of_another_number_are_refused(tmp_path):
    a, b = saved(qwen2_moe(), tmp_path / "a"), tmp_path / "b"
    fewer = {n: t for n, t in state_of(a).items() if ".experts.3." not in n}
    write(b, fewer, config_of(a))
    with pytest.raises(IncompatibleError, match=r"lacks 'model\.layers\.0\.mlp\.experts\.3\."):
        mappings(a, b)


def test_another_number_of_layers_is_refused_with_both_numbers_and_without_a_pattern(tmp_path):
    deep, shallow = (
        saved(
            hf.BertModel(
                hf.BertConfig(
                    vocab_size=20, hidden_size=8, num_attention_heads=2, intermediate_size=16, num_hidden_layers=depth
                )
            ),
            tmp_path / f"of{depth}",
        )
        for depth in (3, 1)
    )
    numbers = {deep: 3, shallow: 1}
    for first, other in ((deep, shallow), (shallow, deep)):
        with pytest.raises(IncompatibleError) as caught:
            mappings(first, other)
        message = str(caught.value)
        assert f"`num_hidden_layers` is {numbers[other]}, but {numbers[first]} in '" in message
        assert "`missing" not in message
        assert "encoder.layer.1." in caught.value.tensor
        assert message.count("\n") == 2


def test_biases_of_layers_that_only_one_has_are_refused_without_a_pattern(tmp_path, base):
    lean = {name: tensor for name, tensor in state_of(base).items() if not name.endswith("query.bias")}
    with pytest.raises(IncompatibleError, match=r"lacks 'encoder\.layer\.0\.\S+query\.bias'") as caught:
        mappings(base, write(tmp_path / "lean", lean, config_of(base)))
    assert "`missing" not in str(caught.value)


def test_causal_masks_of_old_gpt2_checkpoints_may_be_in_some_only(tmp_path):
    config = hf.GPT2Config(
        vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=2
    )
    new = saved(hf.GPT2LMHeadModel(config), tmp_path / "new")
    state = {name.removeprefix("transformer."): tensor for name, tensor in state_of(new).items()}
    masks = {"h.0.attn.bias": torch.ones(1, 1, 16, 16).tril(), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    old = write(tmp_path / "old", state | masks, config_of(new))
    for first, other in ((old, new), (new, old)):
        mapping = mappings(first, other)[1]
        assert {name for what, name in whats(mapping) if what == "rebuilt"} == masks.keys()
        assert mapping.specs.keys() == state_of(new).keys() if first is new else mapping.absent == masks.keys()


def test_modules_without_a_config_are_matched_by_name(tmp_path):
    a = write(tmp_path / "a", {"linear.weight": torch.ones(2, 2), "linear.bias": torch.ones(2)}, {})
    b = write(tmp_path / "b", {"linear.weight": torch.ones(2, 2)}, {})
    with pytest.raises(IncompatibleError, match=r"Cannot mix 'b': it lacks 'linear\.bias'"):
        mappings(a, b)


def test_counters_of_batch_normalisation_are_the_firsts(tmp_path):
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    a = saved(hf.ResNetModel(config), tmp_path / "a")
    b = write(
        tmp_path / "b",
        {name: tensor + 7 if name.endswith("num_batches_tracked") else tensor for name, tensor in state_of(a).items()},
        config_of(a),
    )
    _, mapping = mappings(a, b)
    assert mapping.absent == {name for name in state_of(a) if name.endswith("num_batches_tracked")}
    assert len(mapping.absent) > 1


MASK = torch.ones(1, 1, 32, 32, dtype=torch.bool).tril()


def gpt_neox():
    config = hf.GPTNeoXConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    return hf.GPTNeoXForCausalLM(config)


def gptj():
    return hf.GPTJForCausalLM(
        hf.GPTJConfig(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=32, rotary_dim=4)
    )


def codegen():
    config = hf.CodeGenConfig(vocab_size=32, n_embd=16, n_layer=1, n_head=4, n_positions=32, rotary_dim=4)
    return hf.CodeGenForCausalLM(config)


def swin():
    config = hf.SwinConfig(image_size=16, patch_size=4, embed_dim=8, depths=[1], num_heads=[2], window_size=2)
    return hf.SwinForImageClassification(config)


def esm():
    config = hf.EsmConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
        position_embedding_type="rotary",
        pad_token_id=0,
        mask_token_id=3,
    )
    return hf.EsmForMaskedLM(config)


OLD = {
    "masks of GPT-NeoX": (
        gpt_neox,
        {
            "gpt_neox.layers.0.attention.bias": MASK,
            "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
            "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(2),
        },
    ),
    "masks of GPT-J": (
        gptj,
        {"transformer.h.0.attn.bias": MASK, "transformer.h.0.attn.masked_bias": torch.tensor(-1e9)},
    ),
    "masks of CodeGen": (codegen, {"transformer.h.0.attn.causal_mask": MASK}),
    "indices of Swin": (
        swin,
        {"swin.encoder.layers.0.blocks.0.attention.self.relative_position_index": torch.zeros(4, 4, dtype=torch.int64)},
    ),
}
"""What -> a family, and buffers that older checkpoints of it have."""


UNREAD = {
    "positions of ESM-2": (esm, {"esm.embeddings.position_embeddings.weight": torch.ones(20, 16)}),
    "versions of BART": (FAMILIES["BART"], {"model.encoder.version": torch.tensor([3.0])}),
    "attention of T5": (
        FAMILIES["T5"],
        {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.ones(32, 2)},
    ),
}
"""What -> a family, and tensors of its checkpoints that transformers says it never reads."""


@pytest.mark.parametrize(("what", "kind"), [*((w, "rebuilt") for w in OLD), *((w, "unread") for w in UNREAD)])
def test_a_leftover_may_be_in_some_only(what, kind, tmp_path):
    make, extra = (OLD | UNREAD)[what]
    new = saved(make(), tmp_path / "new")
    old = write(tmp_path / "old", state_of(new) | extra, config_of(new))
    mapping = mappings(new, old)[1]
    assert {note.source for note in mapping.notes if note.what == kind} == extra.keys()
    assert mapping.specs.keys() == state_of(new).keys()
    mapping = mappings(old, new)[1]
    assert {note.tensor for note in mapping.notes if note.what == kind} == mapping.absent == extra.keys()


def test_zeros_that_bart_adds_to_its_scores_may_be_in_some_only(tmp_path):
    full = saved(FAMILIES["BART"](), tmp_path / "full")
    state = {name: tensor for name, tensor in state_of(full).items() if name != "final_logits_bias"}
    less = write(tmp_path / "less", state, config_of(full))
    assert mappings(full, less)[1].absent == {"final_logits_bias"}
    assert mappings(less, full)[1].specs.keys() == state.keys()


def test_a_buffer_of_another_precision_is_mixed_all_the_same(tmp_path):
    full = saved(FAMILIES["BART"](), tmp_path / "full")
    half = write(tmp_path / "half", {name: t.bfloat16() for name, t in state_of(full).items()}, config_of(full))
    assert "final_logits_bias" in mappings(full, half)[1].specs


def test_counters_of_batch_normalisation_may_be_in_some_only(tmp_path):
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    full = saved(hf.ResNetModel(config), tmp_path / "full")
    counters = {name for name in state_of(full) if name.endswith("num_batches_tracked")}
    state = {name: tensor for name, tensor in state_of(full).items() if name not in counters}
    less = write(tmp_path / "less", state, config_of(full))
    assert mappings(full, less)[1].absent == counters
    assert mappings(less, full)[1].specs.keys() == state.keys()
