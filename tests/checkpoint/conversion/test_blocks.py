import pytest
import torch
import transformers as hf
from checkpoint_helpers import both_ways, config_of, mappings, read, saved, state_of, write
from model_zoo import DECODER

MOE = ["Qwen2-MoE", "Mixtral"]


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("family", MOE)
@pytest.mark.parametrize("order", [("parts", "fused"), ("fused", "parts")])
def test_experts_are_read_as_the_first_ingredient_cuts_them(family, order, streamed, tmp_path, monkeypatch):
    if not streamed:
        monkeypatch.setattr("cocktail_hub.checkpoint.conversion.blocks.MAX_TRACED", 0)
    both_ways(family, tmp_path)
    first, other = (tmp_path / name for name in order)
    _, mapping = mappings(first, other)
    assert (bool(mapping.ranges), bool(mapping.blocks)) == (streamed, not streamed)
    expected, found = state_of(first), read(mapping, other)
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert any(note.what == "converted" for note in mapping.notes)


def test_an_expert_is_one_run_of_the_fused_tensor(tmp_path):
    parts, fused = both_ways("Qwen2-MoE", tmp_path)
    _, mapping = mappings(parts, fused)
    experts = "model.layers.1.mlp.experts"
    assert mapping.ranges[f"{experts}.2.up_proj.weight"] == (
        (f"{experts}.gate_up_proj", 2 * 16 * 16 + 8 * 16, 2 * 16 * 16 + 16 * 16),
    )
    _, mapping = mappings(fused, parts)
    assert [source.rsplit(".", 3)[1:3] for source, _, _ in mapping.ranges[f"{experts}.gate_up_proj"]][:3] == [
        ["0", "gate_proj"],
        ["0", "up_proj"],
        ["1", "gate_proj"],
    ]


@pytest.mark.parametrize("streamed", [True, False])
def test_a_transposed_tensor_is_turned(tmp_path, streamed, monkeypatch):
    """qwen3_vl_moe checkpoints of the first day hold their experts the other way round, under the same names."""
    if not streamed:
        monkeypatch.setattr("cocktail_hub.checkpoint.conversion.blocks.MANY_RANGES", 0)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    text = {**DECODER, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 16}
    vision |= {"patch_size": 2, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 16}
    config = hf.Qwen3VLMoeConfig(
        text_config={**text, "rope_parameters": rope}, vision_config={**vision, "deepstack_visual_indexes": [0]}
    )
    torch.manual_seed(0)
    now = saved(hf.Qwen3VLMoeForConditionalGeneration(config), tmp_path / "now")
    state = state_of(now)
    turned = {n: t.transpose(1, 2).contiguous() if ".experts." in n else t for n, t in state.items()}
    assert turned["model.language_model.layers.0.mlp.experts.gate_up_proj"].shape == (4, 16, 24)
    write(tmp_path / "then", turned, config_of(now))
    _, mapping = mappings(now, tmp_path / "then")
    assert bool(mapping.blocks) == (not streamed)
    found = read(mapping, tmp_path / "then")
    assert all(torch.equal(tensor, found[name]) for name, tensor in state.items())
