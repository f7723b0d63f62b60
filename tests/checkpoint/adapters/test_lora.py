import json
from concurrent.futures import ThreadPoolExecutor

import peft
import pytest
import torch
import transformers as hf
from checkpoint_helpers import read_all
from model_zoo import bert
from packaging.version import Version
from safetensors.torch import load_file, save_file

from cocktail_hub.checkpoint.adapters.lora import adapt, read_adapter
from cocktail_hub.checkpoint.adapters.reader import AdaptedReader, open_adapted
from cocktail_hub.checkpoint.conversion.align import align
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.reader import open_weights
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.errors import CheckpointError, IncompatibleError

pytestmark = [
    pytest.mark.whole,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),  # what peft says as it saves
]


def llama(**extra):
    config = hf.LlamaConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **extra,
    )
    return hf.LlamaForCausalLM(config)


def gpt2(**extra):
    config = hf.GPT2Config(
        vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16, tie_word_embeddings=False, **extra
    )
    return hf.GPT2LMHeadModel(config)


def gpt2_classifier():
    model = gpt2(num_labels=3, pad_token_id=0)
    return hf.GPT2ForSequenceClassification(model.config)


def vit():
    config = hf.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4
    )
    return hf.ViTForImageClassification(config)


def train(model, adapter_root, base_root, **config):
    """Save a base, unless it is there, and an adapter with random weights; return what PEFT merges them into."""
    if not base_root.exists():
        model.save_pretrained(base_root)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**config))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted.peft_config["default"].base_model_name_or_path = str(base_root)
    adapted.save_pretrained(adapter_root)
    return adapted.merge_and_unload(safe_merge=True)


def adapted_layout(base_root, adapter_root):
    config = json.loads((base_root / "config.json").read_text())
    return adapt(read_weight_files(LocalFiles(base_root, name="base")), config, read_adapter(LocalFiles(adapter_root)))


def load(model_class, config, state, root):
    root.mkdir()
    save_file(state, root / "model.safetensors", metadata={"format": "pt"})
    (root / "config.json").write_text(json.dumps(dict(config)))
    loaded, info = model_class.from_pretrained(root, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return loaded


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
    layout = adapted_layout(tmp_path / "base", tmp_path / "adapter")
    with open_adapted(layout, tmp_path / "base", tmp_path / "adapter") as source:
        state = read_all(source, 101)  # pieces that cut rows
    before = load_file(tmp_path / "base" / "model.safetensors")
    assert any(not torch.equal(before[name], tensor) for name, tensor in state.items())
    loaded = load(type(merged), layout.config, state, tmp_path / "merged").state_dict()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(loaded[name], tensor, rtol=1e-6, atol=1e-7)


def test_the_flag_of_peft_does_not_say_how_square_matrices_are_stored(tmp_path):
    """PEFT writes it as the last module has it, and the head is no `Conv1D`."""
    saved_adapter(tmp_path, gpt2, target_modules=["attn.c_proj", "lm_head"])
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["fan_in_fan_out"] is False
    changes = adapted_layout(tmp_path / "base", tmp_path / "adapter").changes
    assert {name: change.transposed for name, change in changes.items()} == {
        "transformer.h.0.attn.c_proj.weight": True,
        "transformer.h.1.attn.c_proj.weight": True,
        "lm_head.weight": False,
    }


def test_a_base_without_a_sign_of_turned_matrices_is_not_built_to_ask(tmp_path, monkeypatch):
    """That takes seconds, for nearly every adapter there is."""
    root = saved_adapter(tmp_path, target_modules=["q_proj"])
    monkeypatch.setattr("cocktail_hub.checkpoint.adapters.targets.Places.is_transposed", pytest.fail)
    changes = adapted_layout(tmp_path / "base", root).changes
    shapes = {adapted_layout(tmp_path / "base", root).specs[name].shape for name in changes}
    assert shapes == {(16, 16)}


def test_square_matrices_of_a_model_with_its_own_code_are_taken_as_they_are(tmp_path):
    root = saved_adapter(tmp_path)
    rewrite(root, auto_mapping=None)
    config = json.loads((tmp_path / "base" / "config.json").read_text()) | {"model_type": "of-its-own"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    assert {change.transposed for change in adapted_layout(tmp_path / "base", root).changes.values()} == {False}


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
    layout = adapted_layout(tmp_path / "base", tmp_path / "adapter")
    assert layout.config["vocab_size"] == 52
    with open_adapted(layout, tmp_path / "base", tmp_path / "adapter") as source:
        state = read_all(source, 101)
    loaded = load(type(merged), layout.config, state, tmp_path / "merged").state_dict()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(loaded[name], tensor, rtol=1e-6, atol=1e-7)


def test_bfloat16_is_handed_over_before_it_is_rounded(tmp_path):
    torch.manual_seed(0)
    model = llama().bfloat16()
    train(model, tmp_path / "adapter", tmp_path / "base", r=4, lora_alpha=8, target_modules=["q_proj"])
    layout = adapted_layout(tmp_path / "base", tmp_path / "adapter")
    with open_adapted(layout, tmp_path / "base", tmp_path / "adapter") as source:
        state = read_all(source, 101)  # pieces that cut rows
    name = "model.layers.0.self_attn.q_proj"
    base = load_file(tmp_path / "base" / "model.safetensors")[f"{name}.weight"]
    factors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    a, b = (factors[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
    assert layout.specs[f"{name}.weight"].stored == "BF16"
    torch.testing.assert_close(state[f"{name}.weight"], base.double() + 2 * (b @ a), rtol=0, atol=1e-6)


@pytest.mark.parametrize("pieces", [1, 7, 16, 10_000])
def test_bytes_do_not_depend_on_how_a_tensor_is_cut(tmp_path, pieces, monkeypatch):
    torch.manual_seed(0)
    options = {"r": 4, "target_modules": ["q_proj", "embed_tokens"], "use_dora": True}
    train(llama(), tmp_path / "adapter", tmp_path / "base", **options)
    layout = adapted_layout(tmp_path / "base", tmp_path / "adapter")
    with open_adapted(layout, tmp_path / "base", tmp_path / "adapter") as source:
        expected = read_all(source)
    monkeypatch.setattr("cocktail_hub.checkpoint.adapters.reader.ELEMENTS_AT_ONCE", pieces)
    for name in ("model.layers.0.self_attn.q_proj.weight",):
        with open_adapted(layout, tmp_path / "base", tmp_path / "adapter") as source:
            assert torch.equal(read_all(source)[name], expected[name])


@pytest.mark.parametrize("kept", [1, 64])
def test_threads_that_want_one_norm_wait_for_the_first_of_them(tmp_path, monkeypatch, kept):
    torch.manual_seed(0)
    train(llama(), tmp_path / "adapter", tmp_path / "base", r=4, target_modules=["q_proj", "down_proj"], use_dora=True)
    layout = adapted_layout(tmp_path / "base", tmp_path / "adapter")
    with open_adapted(layout, tmp_path / "base", tmp_path / "adapter") as source:
        expected = read_all(source)
    computed = []
    original = AdaptedReader._squares
    monkeypatch.setattr(
        AdaptedReader, "_squares", lambda self, *given: computed.append(given[0]) or original(self, *given)
    )
    monkeypatch.setattr("cocktail_hub.checkpoint.adapters.reader.KEPT_NORMS", kept)
    with open_adapted(layout, tmp_path / "base", tmp_path / "adapter") as source, ThreadPoolExecutor(8) as pool:
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
    with open_weights(read_weight_files(LocalFiles(base)), base) as shared:
        for name, expected in zip(("one", "two"), merged, strict=True):
            layout = adapted_layout(base, tmp_path / name)
            with open_weights(layout.adapter.layout, tmp_path / name) as own:
                state = read_all(AdaptedReader(layout, shared, own))
            for tensor, value in state.items():
                torch.testing.assert_close(value, expected[tensor], rtol=1e-6, atol=1e-7, check_dtype=False)


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
    layout = adapted_layout(tmp_path / "plain", tmp_path / "adapter")
    assert layout.config["architectures"] == ["BertForSequenceClassification"]
    with open_adapted(layout, tmp_path / "plain", tmp_path / "adapter") as source:
        state = read_all(source, 101)  # pieces that cut rows
    assert not any("predictions" in name for name in state)
    config = {**layout.config, "id2label": {str(i): f"LABEL_{i}" for i in range(3)}}
    loaded = load(hf.BertForSequenceClassification, config, state, tmp_path / "merged").state_dict()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(loaded[name], tensor, rtol=1e-6, atol=1e-7)


def test_an_adapter_mixes_with_a_whole_model(tmp_path):
    torch.manual_seed(0)
    whole = llama()
    whole.save_pretrained(tmp_path / "whole")
    merged = train(llama(), tmp_path / "adapter", tmp_path / "base", r=2, target_modules=["q_proj"]).state_dict()
    layouts = [
        read_weight_files(LocalFiles(tmp_path / "whole")),
        adapted_layout(tmp_path / "base", tmp_path / "adapter"),
    ]
    _, view = align(layouts, [json.loads((tmp_path / "whole" / "config.json").read_text())] * 2)
    with view.open(tmp_path / "base", tmp_path / "adapter") as source:
        for name, tensor in read_all(source).items():
            torch.testing.assert_close(tensor, merged[name], rtol=1e-6, atol=1e-7, check_dtype=False)


def saved_adapter(tmp_path, make=llama, **config):
    train(make(), tmp_path / "adapter", tmp_path / "base", **{"r": 2, "target_modules": ["q_proj"]} | config)
    return tmp_path / "adapter"


def rewrite(root, **changes):
    path = root / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "LOHA"}, "uses `peft_type: LOHA`, which is no LoRA"),
        ({"trainable_token_indices": [1]}, "uses `trainable_token_indices`, which changes single rows"),
        ({"alora_invocation_tokens": [1]}, "uses `alora_invocation_tokens`"),
        ({"layer_replication": [[0, 1]]}, "uses `layer_replication`"),
        ({"target_parameters": ["x"]}, "uses `target_parameters`"),
        ({"use_qalora": True}, "uses `use_qalora`"),
        ({"use_hyperlora": True}, "uses `use_hyperlora`, which is not known to this version"),
        ({"new_config": {"a": 1}}, "uses `new_config`, which is not known"),
        ({"init_lora_weights": "pissa"}, "uses `init_lora_weights: pissa`, which changes the base's weights"),
        ({"init_lora_weights": "loftq"}, "uses `init_lora_weights: loftq`"),
        ({"r": 0}, "cannot be understood: a rank is not positive"),
        ({"r": None}, "cannot be understood"),
        ({"r": float("inf")}, "cannot be understood: cannot convert float infinity to integer"),
        ({"lora_alpha": None}, "cannot be understood"),
        ({"lora_alpha": float("inf")}, "cannot be understood: `lora_alpha` is inf, which would make every weight"),
        ({"lora_alpha": float("nan")}, "cannot be understood: `lora_alpha` is nan, which would make every weight"),
        ({"alpha_pattern": {"q_proj": float("nan")}}, "cannot be understood: `alpha_pattern` is nan, which would"),
        (
            {"rank_pattern": {"[": 3}},
            r"cannot be understood: `rank_pattern` has '\[', which is no regular expression \(unterminated",
        ),
        (
            {"alpha_pattern": {"q_proj": 4, "(": 3}},
            r"cannot be understood: `alpha_pattern` has '\(', which is no regular expression \(missing \)",
        ),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path, changes, words):
    root = saved_adapter(tmp_path)
    rewrite(root, **changes)
    with pytest.raises(CheckpointError, match=words):
        read_adapter(LocalFiles(root))


def test_what_a_config_lacks_is_what_peft_takes_it_to_be(tmp_path):
    root = saved_adapter(tmp_path, r=8, lora_alpha=32)
    path = root / "adapter_config.json"
    shortened = {k: v for k, v in json.loads(path.read_text()).items() if k not in {"r", "lora_alpha"}}
    path.write_text(json.dumps(shortened))
    model = hf.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    merged = peft.PeftModel.from_pretrained(model, root).merge_and_unload().state_dict()
    with open_adapted(adapted_layout(tmp_path / "base", root), tmp_path / "base", root) as source:
        for name, tensor in read_all(source).items():
            torch.testing.assert_close(tensor, merged[name], rtol=1e-6, atol=1e-7, check_dtype=False)
    assert read_adapter(LocalFiles(root)).config.scale("q_proj") == 1.0


def test_damaged_configs_are_refused(tmp_path):
    root = saved_adapter(tmp_path)
    (root / "adapter_config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="it is not a mapping"):
        read_adapter(LocalFiles(root))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_C.weight", (2, 2), "lora_C"),
        ("base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", (2, 16), "its other factor is missing"),
        ("model.layers.0.self_attn.k_proj.weight", (8, 16), "PEFT's names begin with 'base_model.model.'"),
        ("base_model.model.model.layers.0.self_attn.k_proj.lora_magnitude_vector", (8,), "belongs to no product"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", (9, 2), "its product is 9 x 16"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", (16, 3), "the rank is 2"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", (3,), "has 16 outputs"),
    ],
)
def test_every_tensor_of_an_adapter_must_have_a_place(tmp_path, key, value, words):
    root = saved_adapter(tmp_path)
    state = load_file(root / "adapter_model.safetensors") | {key: torch.zeros(value)}
    save_file(state, root / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        adapted_layout(tmp_path / "base", root)


@pytest.mark.parametrize(
    ("target", "module"),
    [("q_proj", "model.layers.0.self_attn.q_proj"), ("embed_tokens", "model.embed_tokens")],
)
def test_a_dora_without_a_magnitude_is_refused_and_not_read_as_a_lora(tmp_path, target, module):
    root = saved_adapter(tmp_path, target_modules=[target], use_dora=True)
    file = root / "adapter_model.safetensors"
    state = load_file(file)
    missing = f"base_model.model.{module}.lora_magnitude_vector"
    save_file({name: tensor for name, tensor in state.items() if name != missing}, file)
    assert missing in state
    with pytest.raises(CheckpointError) as caught:
        adapted_layout(tmp_path / "base", root)
    assert str(caught.value) == (
        f"The adapter '{root}' is a DoRA (`use_dora`), but lacks the tensor '{missing}'.\n"
        "Read as a plain LoRA, the module would not be what was trained.\n"
        "Download or save the adapter again with PEFT's `save_pretrained`."
    )


def test_an_adapter_of_another_model_is_refused(tmp_path):
    root = saved_adapter(tmp_path)
    gpt2().save_pretrained(tmp_path / "other")
    with pytest.raises(
        CheckpointError, match="was trained on a LlamaForCausalLM, but its base 'base' is a GPT2LMHeadModel"
    ):
        adapted_layout(tmp_path / "other", root)
    rewrite(root, auto_mapping=None)
    with pytest.raises(CheckpointError, match=r"changes 'model\.layers\.0\.self_attn\.q_proj\.weight', which its base"):
        adapted_layout(tmp_path / "other", root)


@pytest.mark.parametrize(
    ("dtype", "shown"), [(torch.float8_e4m3fn, "F8_E4M3"), (torch.float8_e5m2, "F8_E5M2"), (torch.int8, "I8")]
)
@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_factors_of_other_types_are_refused_before_anything_is_read(tmp_path, dtype, shown, part):
    root = saved_adapter(tmp_path)
    file = root / "adapter_model.safetensors"
    key = f"base_model.model.model.layers.0.self_attn.q_proj.{part}.weight"
    state = load_file(file)
    save_file(state | {key: state[key].to(dtype)}, file)
    with pytest.raises(CheckpointError) as caught:
        adapted_layout(tmp_path / "base", root)
    assert str(caught.value) == (
        f"The adapter '{root}' stores '{key}' as {shown}; BF16, F16, F32, F64 are taken.\n"
        "Narrower types are too coarse to be added to a base, and others are no numbers to add.\n"
        "Use the adapter as it was trained, or load it with PEFT and save it again as float32."
    )


def grouped():
    config = hf.ResNetConfig(
        num_channels=4, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=2
    )
    model = hf.ResNetForImageClassification(config)
    model.resnet.embedder.embedder.convolution = torch.nn.Conv2d(4, 8, 3, groups=2, bias=False)
    return model


@pytest.mark.parametrize("rank", [2, 4])
def test_convolutions_in_groups_are_refused_without_sending_people_to_peft(tmp_path, rank):
    model = grouped()
    model.save_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=rank, target_modules=["embedder.embedder.convolution"]))
    with pytest.raises(NotImplementedError, match="Merging is not supported for _ConvNd layers with groups"):
        adapted.merge_and_unload()
    adapted.save_pretrained(tmp_path / "adapter")
    module = "resnet.embedder.embedder.convolution"
    with pytest.raises(CheckpointError) as caught:
        adapted_layout(tmp_path / "base", tmp_path / "adapter")
    assert str(caught.value) == (
        f"The adapter '{tmp_path / 'adapter'}' changes '{module}', a convolution in 2 groups.\n"
        "That change is no product of two matrices that could be added to the base; PEFT cannot merge it either.\n"
        f"Train the adapter without '{module}' (`exclude_modules`), or fine-tune the whole model and mix that."
    )


def test_a_head_that_the_base_ties_is_refused(tmp_path):
    root = saved_adapter(tmp_path, lambda: llama(tie_word_embeddings=True), modules_to_save=["lm_head"])
    with pytest.raises(IncompatibleError, match=r"shares with 'model\.embed_tokens\.weight' \(`tie_word_embeddings`"):
        adapted_layout(tmp_path / "base", root)


@pytest.mark.parametrize("together", [True, False])
def test_factors_for_tied_embeddings_are_refused(tmp_path, together):
    config = {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": together}
    root = saved_adapter(tmp_path, lambda: llama(tie_word_embeddings=True), **config)  # PEFT would merge them twice
    with pytest.raises(IncompatibleError, match=r"shares with 'lm_head\.weight' \(`tie_word_embeddings`"):
        adapted_layout(tmp_path / "base", root)


def test_a_pooler_that_started_at_random_is_refused(tmp_path):
    torch.manual_seed(0)
    bert("BertForMaskedLM").save_pretrained(tmp_path / "plain")
    model = hf.BertForSequenceClassification.from_pretrained(tmp_path / "plain")
    train(model, tmp_path / "adapter", tmp_path / "unused", r=2, target_modules=["query"], task_type="SEQ_CLS")
    with pytest.raises(IncompatibleError, match=r"whose 'bert\.pooler\.dense\.bias' is neither in its base"):
        adapted_layout(tmp_path / "plain", tmp_path / "adapter")


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
    changed = adapted_layout(tmp_path / "base", tmp_path / "adapter").changes
    assert list(changed) == ["vit.layers.0.attention.q_proj.weight"]


def test_factors_that_are_not_finite_are_refused(tmp_path):
    root = saved_adapter(tmp_path)
    file = root / "adapter_model.safetensors"
    state = load_file(file)
    state[next(iter(state))][0, 0] = float("nan")
    save_file(state, file)
    with (
        open_adapted(adapted_layout(tmp_path / "base", root), tmp_path / "base", root) as source,
        pytest.raises(CheckpointError, match="holds infinity or NaN"),
    ):
        read_all(source)
