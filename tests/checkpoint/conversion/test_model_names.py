import re

import pytest

from cocktail_hub.checkpoint.conversion.model_names import common_pattern
from cocktail_hub.checkpoint.weight_files import is_counter, is_mask, is_rebuilt, unwrapped


@pytest.mark.parametrize(
    ("names", "bare"),
    [
        (["module.a", "module.b.c"], ["a", "b.c"]),
        (["_orig_mod.a", "b"], ["a", "b"]),
        (["module._orig_mod.a"], ["a"]),
        (["module.module.a", "module.module.b"], ["a", "b"]),
        (["_forward_module.module.a"], ["a"]),
        (["model._orig_mod.layers.0._fsdp_wrapped_module.w"], ["model.layers.0.w"]),
        (["layers.0._checkpoint_wrapped_module.w"], ["layers.0.w"]),
        (["module.a", "head"], ["module.a", "head"]),
        (["my_orig_mod.a"], ["my_orig_mod.a"]),
        (["a", "_orig_mod.a"], ["a", "_orig_mod.a"]),
        ([], []),
    ],
)
def test_wrappers_are_taken_off_where_that_leaves_every_name_its_own(names, bare):
    assert unwrapped(names) == dict(zip(bare, names, strict=True))


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.position_ids",
        "position_ids",
        "layers.0.rotary_emb.inv_freq",
        "final_logits_bias",
        "bn1.num_batches_tracked",
    ],
)
def test_known_buffers_are_rebuilt(name):
    assert is_rebuilt(name)


@pytest.mark.parametrize("name", ["my_position_ids", "position_ids.weight", "inv_freq_proj.weight"])
def test_other_tensors_are_not(name):
    assert not is_rebuilt(name)


def test_masks_are_told_by_their_name():
    assert is_mask("h.0.attn.bias")
    assert is_mask("attention.causal_mask")
    assert not is_mask("attention.dense.bias")
    assert not is_mask("self_attn.bias")


def test_counters_are_told_by_their_name():
    assert is_counter("encoder.bn1.num_batches_tracked")
    assert not is_counter("encoder.bn1.running_mean")


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["pooler.dense.weight", "pooler.dense.bias"], r"pooler\..*"),
        (["lm_head.weight"], r"lm_head\..*"),
        (["a.x", "b.y.z", "b.w"], r"a\..*|b\..*"),
        (["encoder.pooler.weight", "cls.bias", "cls.weight"], r"encoder\.pooler\..*|cls\..*"),
        (["encoder.layer.0.bias"], r"encoder\.layer\.0\.bias"),
        (["logit_scale"], "logit_scale"),
    ],
)
def test_a_common_pattern_matches_all_and_none_that_others_have(names, pattern):
    assert common_pattern(names, ["encoder.layer.0.weight"]) == pattern
    assert all(re.fullmatch(pattern, name) for name in names)
    assert not re.fullmatch(pattern, "encoder.layer.0.weight")
