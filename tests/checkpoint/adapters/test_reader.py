import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import peft
import pytest
import torch
import transformers as hf
from adapter_helpers import adapted_weights, gpt2, llama, load, saved_adapter, train, vit
from checkpoint_helpers import read_all
from model_zoo import bert
from packaging.version import Version
from safetensors.torch import load_file, save_file

from cocktail_hub.checkpoint.adapters.reader import AdaptedReader, open_adapted
from cocktail_hub.checkpoint.conversion.align import align
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.reader import open_weights
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.errors import CheckpointError

pytestmark = [
    pytest.mark.whole,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),  # what peft says as it saves
]


def gpt2_classifier():
    model = gpt2(num_labels=3, pad_token_id=0)
    return hf.GPT2ForSequenceClassification(model.config)


KINDS = {
    "lora": (llama, {"target_modules": ["q_proj", "v_proj"]}),
    "rslora": (llama, {"target_modules": ["q_proj", "v_proj"], "use_rslora": True}),
    "patterns": (
        llama,
        {
            "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"layers.0.self_attn.q_proj": 2},
            "alpha_pattern": {"layers.1.self_attn.v_proj": 32, "q_proj": 5},
        },
    ),
    "all linear": (llama, {"target_modules": "all-linear"}),
    "dora": (llama, {"target_modules": ["q_proj", "down_proj"], "use_dora": True}),
    "embeddings": (llama, {"target_modules": ["q_proj", "embed_tokens"]}),
    "dora embeddings": (llama, {"target_modules": ["embed_tokens"], "use_dora": True}),
    "saved head": (llama, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "saved norm": (llama, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "norm"]}),
    "saved tied embeddings": (
        lambda: llama(tie_word_embeddings=True),
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "trained biases": (lambda: llama(attention_bias=True), {"target_modules": ["q_proj"], "bias": "all"}),
    "biases of its own": (lambda: llama(attention_bias=True), {"target_modules": ["q_proj"], "bias": "lora_only"}),
    "bias of B": (lambda: llama(attention_bias=True), {"target_modules": ["q_proj"], "lora_bias": True}),
    "gpt2": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "gpt2 and its head": (gpt2, {"target_modules": ["c_proj", "lm_head"]}),
    "gpt2's square matrix and its head": (gpt2, {"target_modules": ["attn.c_proj", "lm_head"]}),
    "gpt2's square matrix and its labels": (
        gpt2_classifier,
        {"target_modules": ["attn.c_proj", "score"]},
    ),
    "gpt2 of square matrices alone": (
        lambda: gpt2(n_inner=16),
        {"target_modules": ["c_proj", "c_fc", "lm_head"]},
    ),
    "gpt2 dora of a square matrix": (gpt2, {"target_modules": ["attn.c_proj", "lm_head"], "use_dora": True}),
    "gpt2 dora": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": True}),
    "convolution": (vit, {"target_modules": ["projection", "query", "q_proj"]}),
    "convolution dora": (vit, {"target_modules": ["projection"], "use_dora": True}),
    "bert labels": (
        lambda: bert("BertForSequenceClassification", num_labels=3),
        {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_read_as_peft_merges_it(kind, tmp_path):
    if kind == "biases of its own" and Version(peft.__version__) < Version("0.21"):
        pytest.skip("PEFT before 0.21 does not save them")
    make, config = KINDS[kind]
    torch.manual_seed(0)
    model = make()
    merged = train(model, tmp_path / "adapter", tmp_path / "base", r=4, lora_alpha=8, **config)
    weights = adapted_weights(tmp_path / "base", tmp_path / "adapter")
    with closing(open_adapted(weights, tmp_path / "base", tmp_path / "adapter")) as source:
        state = read_all(source, 101)  # pieces that cut rows
    before = load_file(tmp_path / "base" / "model.safetensors")
    assert any(not torch.equal(before[name], tensor) for name, tensor in state.items())
    loaded = load(type(merged), weights.config, state, tmp_path / "merged").state_dict()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(loaded[name], tensor, rtol=1e-6, atol=1e-7)


def test_bfloat16_is_returned_before_it_is_rounded(tmp_path):
    torch.manual_seed(0)
    model = llama().bfloat16()
    train(model, tmp_path / "adapter", tmp_path / "base", r=4, lora_alpha=8, target_modules=["q_proj"])
    weights = adapted_weights(tmp_path / "base", tmp_path / "adapter")
    with closing(open_adapted(weights, tmp_path / "base", tmp_path / "adapter")) as source:
        state = read_all(source, 101)  # pieces that cut rows
    name = "model.layers.0.self_attn.q_proj"
    base = load_file(tmp_path / "base" / "model.safetensors")[f"{name}.weight"]
    factors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    a, b = (factors[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
    assert weights.specs[f"{name}.weight"].stored == "BF16"
    torch.testing.assert_close(state[f"{name}.weight"], base.double() + 2 * (b @ a), rtol=0, atol=1e-6)


@pytest.mark.parametrize("pieces", [1, 7, 16, 10_000])
def test_bytes_do_not_depend_on_how_a_tensor_is_cut(tmp_path, pieces, monkeypatch):
    torch.manual_seed(0)
    options = {"r": 4, "target_modules": ["q_proj", "embed_tokens"], "use_dora": True}
    train(llama(), tmp_path / "adapter", tmp_path / "base", **options)
    weights = adapted_weights(tmp_path / "base", tmp_path / "adapter")
    with closing(open_adapted(weights, tmp_path / "base", tmp_path / "adapter")) as source:
        expected = read_all(source)
    monkeypatch.setattr("cocktail_hub.checkpoint.adapters.reader.ELEMENTS_AT_ONCE", pieces)
    for name in ("model.layers.0.self_attn.q_proj.weight",):
        with closing(open_adapted(weights, tmp_path / "base", tmp_path / "adapter")) as source:
            assert torch.equal(read_all(source)[name], expected[name])


@pytest.mark.parametrize("kept", [1, 64])
def test_threads_that_want_one_norm_wait_for_the_first_of_them(tmp_path, monkeypatch, kept):
    torch.manual_seed(0)
    train(llama(), tmp_path / "adapter", tmp_path / "base", r=4, target_modules=["q_proj", "down_proj"], use_dora=True)
    weights = adapted_weights(tmp_path / "base", tmp_path / "adapter")
    with closing(open_adapted(weights, tmp_path / "base", tmp_path / "adapter")) as source:
        expected = read_all(source)
    computed = []
    original = AdaptedReader._squares
    monkeypatch.setattr(
        AdaptedReader, "_squares", lambda self, *given: computed.append(given[0]) or original(self, *given)
    )
    monkeypatch.setattr("cocktail_hub.checkpoint.adapters.reader.KEPT_NORMS", kept)
    with (
        closing(open_adapted(weights, tmp_path / "base", tmp_path / "adapter")) as source,
        ThreadPoolExecutor(8) as pool,
    ):
        for state in pool.map(lambda _: read_all(source, 33), range(8)):
            assert all(torch.equal(state[name], expected[name]) for name in expected)
        assert len(source._norms) <= kept
    assert len(set(computed)) > 2
    assert kept == 1 or len(computed) == len(set(computed))


def test_several_adapters_share_one_open_base(tmp_path):
    torch.manual_seed(0)
    base = tmp_path / "base"
    merged = []
    for name in ("one", "two"):
        torch.manual_seed(1)
        merged.append(train(llama(), tmp_path / name, base, r=2, target_modules=["q_proj"]).state_dict())
    with closing(open_weights(read_weight_files(LocalFiles(base)), base)) as shared:
        for name, expected in zip(("one", "two"), merged, strict=True):
            weights = adapted_weights(base, tmp_path / name)
            with closing(open_weights(weights.adapter.weights, tmp_path / name)) as own:
                state = read_all(AdaptedReader(weights, shared, own))
            for tensor, value in state.items():
                torch.testing.assert_close(value, expected[tensor], rtol=1e-6, atol=1e-7, check_dtype=False)


def test_an_adapter_mixes_with_a_whole_model(tmp_path):
    torch.manual_seed(0)
    whole = llama()
    whole.save_pretrained(tmp_path / "whole")
    merged = train(llama(), tmp_path / "adapter", tmp_path / "base", r=2, target_modules=["q_proj"]).state_dict()
    weights = [
        read_weight_files(LocalFiles(tmp_path / "whole")),
        adapted_weights(tmp_path / "base", tmp_path / "adapter"),
    ]
    _, mapping = align(weights, [json.loads((tmp_path / "whole" / "config.json").read_text())] * 2)
    with closing(mapping.open(tmp_path / "base", tmp_path / "adapter")) as source:
        for name, tensor in read_all(source).items():
            torch.testing.assert_close(tensor, merged[name], rtol=1e-6, atol=1e-7, check_dtype=False)


def test_factors_that_are_not_finite_are_refused(tmp_path):
    root = saved_adapter(tmp_path)
    file = root / "adapter_model.safetensors"
    state = load_file(file)
    state[next(iter(state))][0, 0] = float("nan")
    save_file(state, file)
    with (
        closing(open_adapted(adapted_weights(tmp_path / "base", root), tmp_path / "base", root)) as source,
        pytest.raises(CheckpointError, match="holds infinity or NaN"),
    ):
        read_all(source)
