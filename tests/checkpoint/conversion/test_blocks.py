from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import torch
import transformers as hf
from checkpoint_helpers import config_of, read, saved, state_of, views, write
from hypothesis import given, settings
from hypothesis import strategies as st
from model_zoo import DECODER, FAMILIES
from safetensors.torch import load_file

from cocktail_hub.checkpoint.reader import open_weights

MOE = ["Qwen2-MoE", "Mixtral"]


def both_ways(family, tmp_path):
    """The same model saved with a tensor per expert, and with all experts in one."""
    torch.manual_seed(0)
    model = FAMILIES[family]()
    parts, fused = tmp_path / "parts", tmp_path / "fused"
    model.save_pretrained(parts)
    model.save_pretrained(fused, save_original_format=False)
    return parts, fused


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("family", MOE)
@pytest.mark.parametrize("order", [("parts", "fused"), ("fused", "parts")])
def test_experts_are_read_as_the_first_ingredient_cuts_them(family, order, streamed, tmp_path, monkeypatch):
    if not streamed:
        monkeypatch.setattr("cocktail_hub.checkpoint.conversion.blocks.MAX_TRACED", 0)
    both_ways(family, tmp_path)
    first, other = (tmp_path / name for name in order)
    _, view = views(first, other)
    assert (bool(view.ranges), bool(view.blocks)) == (streamed, not streamed)
    expected, found = state_of(first), read(view, other)
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert any(note.what == "converted" for note in view.notes)


def test_an_expert_is_one_run_of_the_fused_tensor(tmp_path):
    parts, fused = both_ways("Qwen2-MoE", tmp_path)
    _, view = views(parts, fused)
    experts = "model.layers.1.mlp.experts"
    assert view.ranges[f"{experts}.2.up_proj.weight"] == (
        (f"{experts}.gate_up_proj", 2 * 16 * 16 + 8 * 16, 2 * 16 * 16 + 16 * 16),
    )
    _, view = views(fused, parts)
    assert [source.rsplit(".", 3)[1:3] for source, _, _ in view.ranges[f"{experts}.gate_up_proj"]][:3] == [
        ["0", "gate_proj"],
        ["0", "up_proj"],
        ["1", "gate_proj"],
    ]


def test_any_piece_of_a_fused_tensor_is_read_from_the_parts(tmp_path_factory):
    parts, fused = both_ways("Mixtral", tmp_path_factory.mktemp("moe"))
    _, view = views(fused, parts)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    flat = load_file(fused / "model.safetensors")[name].reshape(-1)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, len(flat)), st.integers(0, len(flat)))
    def check(one, two):
        start, stop = sorted((one, two))
        out = torch.empty(stop - start)
        source.read(name, start, stop, out)
        assert torch.equal(out, flat[start:stop])

    with closing(view.open(parts)) as source:
        check()


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
    _, view = views(now, tmp_path / "then")
    assert bool(view.blocks) == (not streamed)
    found = read(view, tmp_path / "then")
    assert all(torch.equal(tensor, found[name]) for name, tensor in state.items())


def test_converted_blocks_are_made_once_and_few_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("cocktail_hub.checkpoint.conversion.blocks.MAX_TRACED", 0)
    monkeypatch.setattr("cocktail_hub.checkpoint.conversion.tensor_mapping.KEPT_BLOCKS", 1)
    parts, fused = both_ways("Mixtral", tmp_path)
    _, view = views(parts, fused)

    class Counting:
        def __init__(self, source):
            self.source, self.specs, self.name, self.reads = source, source.specs, source.name, []

        def read(self, tensor, start, stop, out):
            self.reads.append(tensor)
            self.source.read(tensor, start, stop, out)

    with closing(open_weights(view.weights, fused)) as files:
        counting = Counting(files)
        source = view.over(counting)
        for name, spec in view.specs.items():
            if ".experts." in name:
                source.read(name, 0, spec.numel, torch.empty(spec.numel))
        assert len(counting.reads) == 4  # two tensors in each of two layers
        assert len(source._converted) == 1


def test_many_threads_may_read_converted_tensors(tmp_path, monkeypatch):
    monkeypatch.setattr("cocktail_hub.checkpoint.conversion.blocks.MAX_TRACED", 0)
    parts, fused = both_ways("Qwen2-MoE", tmp_path)
    _, view = views(parts, fused)
    expected = state_of(parts)
    with closing(view.open(fused)) as source:

        def same(name):
            out = torch.empty(view.specs[name].numel)
            source.read(name, 0, len(out), out)
            return torch.equal(out, expected[name].reshape(-1))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(same, list(view.specs) * 3))
