import pickle
import re
import subprocess
import sys

import pytest
import torch
import transformers as hf
from checkpoint_helpers import config_of, read, saved, state_of, views, write
from model_zoo import bert, qwen2_moe

from cocktail_hub.errors import IncompatibleError, RecipeError


def whats(view):
    return {(note.what, note.tensor) for note in view.notes}


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
        "layouts = [read_weight_files(LocalFiles(p)) for p in roots]\n"
        "views = align(layouts, [json.loads((p / 'config.json').read_text()) for p in roots])\n"
        "assert all(view.plain for view in views), views\n"
        "assert 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, base, tmp_path / "other"], check=True)


def test_buffers_that_the_model_computes_may_be_in_some_only(tmp_path, base):
    state = {**state_of(base), "embeddings.position_ids": torch.arange(16)[None]}
    old = write(tmp_path / "old", state, config_of(base))
    newer = {**state_of(base), "embeddings.position_ids": torch.arange(8, dtype=torch.int32)}
    odd = write(tmp_path / "odd", newer, config_of(base))
    _, without = views(old, base)
    assert (without.absent, whats(without)) == (
        {"embeddings.position_ids"},
        {("rebuilt", "embeddings.position_ids")},
    )
    _, with_it = views(base, old)
    assert (with_it.absent, whats(with_it)) == (frozenset(), {("rebuilt", "embeddings.position_ids")})
    _, other_shape = views(old, odd)
    assert other_shape.absent == {"embeddings.position_ids"}


def test_a_prefix_is_found_both_ways(tmp_path, base, masked):
    missing = {"pooler.*": "first", "cls.*": "drop"}
    _, view = views(base, masked, missing=missing)
    assert view.names["embeddings.word_embeddings.weight"] == "bert.embeddings.word_embeddings.weight"
    assert view.absent == {"pooler.dense.weight", "pooler.dense.bias"}
    assert ("dropped", "cls.predictions.bias") in whats(view)
    assert ("renamed", "embeddings.word_embeddings.weight") in whats(view)
    own, theirs = read(view, masked), state_of(masked)
    assert all(torch.equal(tensor, theirs[f"bert.{name}"]) for name, tensor in own.items())


def test_a_missing_tensor_names_the_remedy(base, masked):
    with pytest.raises(IncompatibleError) as caught:
        views(base, masked)
    message = str(caught.value)
    assert "Cannot mix 'masked': it lacks 'pooler.dense.bias' and 1 more tensors, which 'base' has." in message
    assert r"`missing: {'pooler\\.dense\\..*': first}`" in message
    assert (caught.value.model, caught.value.tensor) == ("masked", "pooler.dense.bias")


def test_an_extra_tensor_names_the_remedy(base, masked):
    with pytest.raises(
        IncompatibleError, match=r"(?s)it has 'cls\.\S+' and \d more .*List 'masked' first, or leave it out"
    ):
        views(base, masked, missing={"pooler.*": "first"})


def test_a_remedy_taken_from_the_message_works(base, masked):
    missing = {}
    for choice in ("first", "drop"):
        with pytest.raises(IncompatibleError) as caught:
            views(base, masked, missing=missing)
        pattern = re.search(r"\{('.*'): " + choice, str(caught.value))[1]
        missing[eval(pattern)] = choice
    views(base, masked, missing=missing)


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
        views(base, masked, missing=missing)


def test_a_policy_for_one_side_does_not_serve_the_other(base, masked):
    with pytest.raises(IncompatibleError, match=r"lacks 'pooler\.dense\.bias'"):
        views(base, masked, missing={"pooler.*": "drop", "cls.*": "first"})


def test_a_wrapped_first_ingredient_is_unwrapped_in_the_mix(tmp_path, base):
    wrapped = write(tmp_path / "w", {f"module._orig_mod.{n}": t for n, t in state_of(base).items()}, config_of(base))
    first, other = views(wrapped, base)
    assert first.specs.keys() == other.specs.keys() == state_of(base).keys()
    assert torch.equal(read(first, wrapped)["pooler.dense.bias"], state_of(base)["pooler.dense.bias"])


def test_a_name_that_only_looks_wrapped_is_kept(tmp_path):
    state = {"module.weight": torch.ones(2), "head.weight": torch.ones(2)}
    first, _ = views(write(tmp_path / "a", state, {}), write(tmp_path / "b", state, {}))
    assert set(first.specs) == set(state)


def test_another_vocabulary_is_said_in_those_words(tmp_path, base):
    config = hf.BertConfig(**{**config_of(base), "vocab_size": 40})
    larger = saved(hf.BertModel(config), tmp_path / "larger")
    with pytest.raises(IncompatibleError) as caught:
        views(base, larger)
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
        views(base, other)


def test_an_integer_for_a_float_is_refused(tmp_path, base):
    state = state_of(base) | {"pooler.dense.bias": torch.zeros(16, dtype=torch.int64)}
    other = write(tmp_path / "other", state, config_of(base))
    with pytest.raises(IncompatibleError, match=r"'pooler\.dense\.bias' is I64, but F32 in 'base'"):
        views(base, other)


def test_another_float_is_fine(tmp_path, base):
    half = write(tmp_path / "half", {n: t.bfloat16() for n, t in state_of(base).items()}, config_of(base))
    assert views(base, half)[1].plain


def test_models_with_their_own_code_are_matched_by_name_alone(tmp_path):
    config = {"model_type": "something_new", "architectures": ["NewModel"]}
    a = write(tmp_path / "a", {"x": torch.ones(2), "y.weight": torch.ones(2)}, config)
    b = write(tmp_path / "b", {"module.x": torch.ones(2), "module.y.weight": torch.zeros(2)}, config)
    _, view = views(a, b)
    assert read(view, b)["y.weight"].tolist() == [0, 0]
    c = write(tmp_path / "c", {"x": torch.ones(2)}, config)
    with pytest.raises(IncompatibleError, match=r"(?s)cannot build NewModel of type 'something_new'.*by name alone"):
        views(a, c)
    assert views(a, c, missing={r"y\.weight": "first"})[1].absent == {"y.weight"}


def renamed_llamas(tmp_path, **changes):
    """A Llama, and one without prefix, so that names must be matched; `changes` are made in the configs of both."""
    config = {**config_of(tied_pair(tmp_path, head=torch.clone)[0]), **changes}
    state = state_of(tmp_path / "tied")
    bare = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    return write(tmp_path / "a", state, config), write(tmp_path / "b", bare, config)


def test_a_class_that_transformers_does_not_have_is_taken_for_the_base_of_its_type(tmp_path):
    a, b = renamed_llamas(tmp_path, architectures=["LLaMAForCausalLM"])
    assert views(a, b)[1].names["model.norm.weight"] == "norm.weight"


def test_a_config_that_transformers_refuses_is_refused_in_its_words(tmp_path):
    a, b = renamed_llamas(tmp_path, hidden_size="sixteen")
    with pytest.raises(IncompatibleError, match=r"cannot build LlamaForCausalLM .*'hidden_size' expected int, got str"):
        views(a, b)


def test_a_config_may_hold_the_infinity_that_transformers_writes(tmp_path):
    config = hf.Mamba2Config(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4, num_heads=4, head_dim=8, n_groups=1
    )
    a = saved(hf.Mamba2Model(config), tmp_path / "a")
    assert config_of(a)["time_step_limit"][1] == {"__float__": "Infinity"}
    b = write(tmp_path / "b", {f"backbone.{n}": t for n, t in state_of(a).items()}, config_of(a))
    assert views(a, b)[1].names["norm_f.weight"] == "backbone.norm_f.weight"


def tied_pair(tmp_path, *, head):
    """A Llama that ties its embeddings, and one that has a head of its own as well."""
    extra = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    config = hf.LlamaConfig(
        **extra, num_attention_heads=2, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    tied = saved(hf.LlamaForCausalLM(config), tmp_path / "tied")
    state = state_of(tied)
    state["lm_head.weight"] = head(state["model.embed_tokens.weight"])
    return tied, write(tmp_path / "both", state, config_of(tied))


def test_a_copy_of_a_tied_tensor_is_left_out(tmp_path):
    tied, both = tied_pair(tmp_path, head=torch.clone)
    _, view = views(tied, both)
    assert whats(view) == {("tied", "lm_head.weight")}
    assert torch.equal(read(view, both)["model.embed_tokens.weight"], state_of(both)["lm_head.weight"])


def test_a_tied_tensor_is_read_where_it_is(tmp_path):
    tied, both = tied_pair(tmp_path, head=torch.clone)
    _, view = views(both, tied)
    assert view.names["lm_head.weight"] == "model.embed_tokens.weight"
    assert whats(view) == {("tied", "lm_head.weight")}


def test_a_head_that_is_not_tied_after_all_is_refused_on_opening(tmp_path):
    tied, both = tied_pair(tmp_path, head=lambda weight: weight + 1e-3)
    _, view = views(tied, both)
    with pytest.raises(
        IncompatibleError, match=r"(?s)'lm_head\.weight' and 'model\.embed_tokens\.weight' have different"
    ):
        view.open(both)


def test_a_copy_of_a_tied_tensor_may_be_of_a_wider_type(tmp_path):
    tied, both = tied_pair(tmp_path, head=torch.clone)
    state = state_of(both)
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"].bfloat16()
    state["lm_head.weight"] = state["model.embed_tokens.weight"].float()
    _, view = views(tied, write(tmp_path / "wider", state, config_of(tied)))
    view.open(tmp_path / "wider").close()
    state["lm_head.weight"] = state_of(both)["lm_head.weight"]
    _, view = views(tied, write(tmp_path / "finer", state, config_of(tied)))
    with pytest.raises(IncompatibleError, match=r"'lm_head\.weight' and 'model\.embed_tokens\.weight' have different"):
        view.open(tmp_path / "finer")


@pytest.mark.parametrize("rows", [24, 40])
def test_a_head_of_another_shape_than_the_tensor_it_is_tied_to_is_refused(tmp_path, rows):
    tied, both = tied_pair(tmp_path, head=lambda weight: torch.cat([weight, weight])[:rows].contiguous())
    with pytest.raises(IncompatibleError, match=r"'both': it has 'lm_head\.weight', which '.*tied' lacks"):
        views(tied, both)


def test_an_untied_first_takes_the_head_of_one_that_ties_by_its_own_config(tmp_path):
    tied, both = tied_pair(tmp_path, head=lambda weight: weight + 1)
    untied = write(tmp_path / "untied", state_of(both), {**config_of(both), "tie_word_embeddings": False})
    _, view = views(untied, tied)
    assert view.names["lm_head.weight"] == "model.embed_tokens.weight"
    loose = write(tmp_path / "loose", state_of(tied), config_of(untied))
    with pytest.raises(IncompatibleError, match=r"'loose': it lacks 'lm_head\.weight'"):
        views(untied, loose)


def test_a_view_survives_pickling(tmp_path):
    torch.manual_seed(0)
    model = qwen2_moe()
    a, b = tmp_path / "a", tmp_path / "b"
    model.save_pretrained(a)
    model.save_pretrained(b, save_original_format=False)
    _, view = views(a, b)
    again = pickle.loads(pickle.dumps(view))
    assert again == view
    own = state_of(a)
    assert all(torch.equal(tensor, own[name]) for name, tensor in read(again, b).items())


def test_experts_of_another_number_are_refused(tmp_path):
    a, b = saved(qwen2_moe(), tmp_path / "a"), tmp_path / "b"
    fewer = {n: t for n, t in state_of(a).items() if ".experts.3." not in n}
    write(b, fewer, config_of(a))
    with pytest.raises(IncompatibleError, match=r"lacks 'model\.layers\.0\.mlp\.experts\.3\."):
        views(a, b)


def test_causal_masks_of_old_gpt2_checkpoints_may_be_in_some_only(tmp_path):
    config = hf.GPT2Config(
        vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=2
    )
    new = saved(hf.GPT2LMHeadModel(config), tmp_path / "new")
    state = {name.removeprefix("transformer."): tensor for name, tensor in state_of(new).items()}
    masks = {"h.0.attn.bias": torch.ones(1, 1, 16, 16).tril(), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    old = write(tmp_path / "old", state | masks, config_of(new))
    for first, other in ((old, new), (new, old)):
        view = views(first, other)[1]
        assert {name for what, name in whats(view) if what == "rebuilt"} == masks.keys()
        assert view.specs.keys() == state_of(new).keys() if first is new else view.absent == masks.keys()


def test_modules_without_a_config_are_matched_by_name(tmp_path):
    a = write(tmp_path / "a", {"linear.weight": torch.ones(2, 2), "linear.bias": torch.ones(2)}, {})
    b = write(tmp_path / "b", {"linear.weight": torch.ones(2, 2)}, {})
    with pytest.raises(IncompatibleError, match=r"Cannot mix 'b': it lacks 'linear\.bias'"):
        views(a, b)


def test_counters_of_batch_normalisation_are_the_firsts(tmp_path):
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    a = saved(hf.ResNetModel(config), tmp_path / "a")
    b = write(
        tmp_path / "b",
        {name: tensor + 7 if name.endswith("num_batches_tracked") else tensor for name, tensor in state_of(a).items()},
        config_of(a),
    )
    _, view = views(a, b)
    assert view.absent == {name for name in state_of(a) if name.endswith("num_batches_tracked")}
    assert len(view.absent) > 1
