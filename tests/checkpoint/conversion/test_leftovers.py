"""Tensors that only some versions save: masks, buffers, counters, and what a class never reads."""

import pytest
import torch
import transformers as hf
from checkpoint_helpers import config_of, saved, state_of, views, write
from model_zoo import FAMILIES

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
    view = views(new, old)[1]
    assert {note.source for note in view.notes if note.what == kind} == extra.keys()
    assert view.specs.keys() == state_of(new).keys()
    view = views(old, new)[1]
    assert {note.tensor for note in view.notes if note.what == kind} == view.absent == extra.keys()


def test_zeros_that_bart_adds_to_its_scores_may_be_in_some_only(tmp_path):
    full = saved(FAMILIES["BART"](), tmp_path / "full")
    state = {name: tensor for name, tensor in state_of(full).items() if name != "final_logits_bias"}
    less = write(tmp_path / "less", state, config_of(full))
    assert views(full, less)[1].absent == {"final_logits_bias"}
    assert views(less, full)[1].specs.keys() == state.keys()


def test_a_buffer_of_another_precision_is_mixed_all_the_same(tmp_path):
    full = saved(FAMILIES["BART"](), tmp_path / "full")
    half = write(tmp_path / "half", {name: t.bfloat16() for name, t in state_of(full).items()}, config_of(full))
    assert "final_logits_bias" in views(full, half)[1].specs


def test_counters_of_batch_normalisation_may_be_in_some_only(tmp_path):
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    full = saved(hf.ResNetModel(config), tmp_path / "full")
    counters = {name for name in state_of(full) if name.endswith("num_batches_tracked")}
    state = {name: tensor for name, tensor in state_of(full).items() if name not in counters}
    less = write(tmp_path / "less", state, config_of(full))
    assert views(full, less)[1].absent == counters
    assert views(less, full)[1].specs.keys() == state.keys()
