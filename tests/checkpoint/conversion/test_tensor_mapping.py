import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import torch
from checkpoint_helpers import both_ways, config_of, mappings, read, state_of, tied_pair, write
from hypothesis import given, settings
from hypothesis import strategies as st
from model_zoo import qwen2_moe
from safetensors.torch import load_file

from cocktail_hub.checkpoint.reader import open_weights
from cocktail_hub.errors import IncompatibleError


def test_any_piece_of_a_fused_tensor_is_read_from_the_parts(tmp_path_factory):
    parts, fused = both_ways("Mixtral", tmp_path_factory.mktemp("moe"))
    _, mapping = mappings(fused, parts)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    flat = load_file(fused / "model.safetensors")[name].reshape(-1)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, len(flat)), st.integers(0, len(flat)))
    def check(one, two):
        start, stop = sorted((one, two))
        out = torch.empty(stop - start)
        source.read(name, start, stop, out)
        assert torch.equal(out, flat[start:stop])

    with closing(mapping.open(parts)) as source:
        check()


def test_converted_blocks_are_made_once_and_few_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("cocktail_hub.checkpoint.conversion.blocks.MAX_TRACED", 0)
    monkeypatch.setattr("cocktail_hub.checkpoint.conversion.tensor_mapping.KEPT_BLOCKS", 1)
    parts, fused = both_ways("Mixtral", tmp_path)
    _, mapping = mappings(parts, fused)

    class Counting:
        def __init__(self, source):
            self.source, self.specs, self.name, self.reads = source, source.specs, source.name, []

        def read(self, tensor, start, stop, out):
            self.reads.append(tensor)
            self.source.read(tensor, start, stop, out)

    with closing(open_weights(mapping.weights, fused)) as files:
        counting = Counting(files)
        source = mapping.over(counting)
        for name, spec in mapping.specs.items():
            if ".experts." in name:
                source.read(name, 0, spec.numel, torch.empty(spec.numel))
        assert len(counting.reads) == 4  # two tensors in each of two layers
        assert len(source._converted) == 1


def test_many_threads_may_read_converted_tensors(tmp_path, monkeypatch):
    monkeypatch.setattr("cocktail_hub.checkpoint.conversion.blocks.MAX_TRACED", 0)
    parts, fused = both_ways("Qwen2-MoE", tmp_path)
    _, mapping = mappings(parts, fused)
    expected = state_of(parts)
    with closing(mapping.open(fused)) as source:

        def same(name):
            out = torch.empty(mapping.specs[name].numel)
            source.read(name, 0, len(out), out)
            return torch.equal(out, expected[name].reshape(-1))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(same, list(mapping.specs) * 3))


def test_a_head_that_is_not_tied_after_all_is_refused_on_opening(tmp_path):
    tied, both = tied_pair(tmp_path, head=lambda weight: weight + 1e-3)
    _, mapping = mappings(tied, both)
    with pytest.raises(
        IncompatibleError, match=r"(?s)'lm_head\.weight' and 'model\.embed_tokens\.weight' have different"
    ):
        mapping.open(both)


def test_a_copy_of_a_tied_tensor_may_be_of_a_wider_type(tmp_path):
    tied, both = tied_pair(tmp_path, head=torch.clone)
    state = state_of(both)
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"].bfloat16()
    state["lm_head.weight"] = state["model.embed_tokens.weight"].float()
    _, mapping = mappings(tied, write(tmp_path / "wider", state, config_of(tied)))
    mapping.open(tmp_path / "wider").close()
    state["lm_head.weight"] = state_of(both)["lm_head.weight"]
    _, mapping = mappings(tied, write(tmp_path / "finer", state, config_of(tied)))
    with pytest.raises(IncompatibleError, match=r"'lm_head\.weight' and 'model\.embed_tokens\.weight' have different"):
        mapping.open(tmp_path / "finer")


def test_a_view_survives_pickling(tmp_path):
    torch.manual_seed(0)
    model = qwen2_moe()
    a, b = tmp_path / "a", tmp_path / "b"
    model.save_pretrained(a)
    model.save_pretrained(b, save_original_format=False)
    _, mapping = mappings(a, b)
    again = pickle.loads(pickle.dumps(mapping))
    assert again == mapping
    own = state_of(a)
    assert all(torch.equal(tensor, own[name]) for name, tensor in read(again, b).items())
