"""Which files of a repository make up the model."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.model_files import read_config, read_json, read_model_files, read_modules
from cocktail_hub.errors import CheckpointError, SourceError

if TYPE_CHECKING:
    from cocktail_hub.checkpoint.model_files import ModelFiles

MODULES = [{"idx": 0, "path": "", "type": "T"}, {"idx": 1, "path": "1_Pooling", "type": "P"}]


class Files:
    """A repository in memory: names without content, and some with it."""

    def __init__(self, *names: str, **contents: Any) -> None:
        self.name = "org/a"
        self.contents = {name.replace("__", "."): _bytes(content) for name, content in contents.items()}
        self.sizes = dict.fromkeys(sorted({*names, *self.contents}), 1)

    def put(self, path: str, content: Any) -> Files:
        self.contents[path], self.sizes[path] = _bytes(content), 1
        return self

    def read(self, path: str) -> bytes:
        if path not in self.sizes:
            raise SourceError(f"'{self.name}' has no file '{path}'.")
        return self.contents.get(path, b"{}")

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        return self.read(path)[start:stop]


def _bytes(content: Any) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()


def contents(*names: str, **texts: Any) -> ModelFiles:
    return read_model_files(Files(*names, **texts))


# -- transformers --------------------------------------------------------------------------------------------------


def test_a_transformers_model_is_its_config_tokenizer_and_one_set_of_weights() -> None:
    found = contents(
        *(
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
        ),
        *("vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja", "preprocessor_config.json", "LICENSE.md"),
        *("model.safetensors", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.onnx", "README.md"),
        *("optimizer.pt", "trainer_state.json", "all_results.json", "training_args.bin", "requirements.txt"),
        *(
            "onnx/model.onnx",
            "onnx/config.json",
            "openvino_config.json",
            "original/consolidated.pth",
            "original/x.json",
        ),
        *("runs/events.out", "checkpoint-500/model.safetensors", "checkpoint-500/config.json", ".gitattributes"),
    )
    assert found.weight_files == ("model.safetensors",)
    assert (found.main, found.weight_folders, found.code, found.adapter) == ("", ("",), (), False)
    assert set(found.carried) == {
        *(
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
        ),
        *("vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja", "preprocessor_config.json", "LICENSE.md"),
    }
    assert found.needed == (*found.carried, "model.safetensors")


def test_shards_come_with_their_index() -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    found = read_model_files(Files("config.json", *shards).put("model.safetensors.index.json", index))
    assert found.weight_files == (*shards, "model.safetensors.index.json")
    assert "model.safetensors.index.json" not in found.carried


def test_an_index_beside_a_single_file_is_not_needed() -> None:
    found = contents("config.json", "model.safetensors", "model.safetensors.index.json")
    assert found.weight_files == ("model.safetensors",)


def test_pickled_weights_are_taken_where_there_are_no_others() -> None:
    assert contents("config.json", "pytorch_model.bin").weight_files == ("pytorch_model.bin",)


def test_code_is_listed_apart_from_what_is_carried() -> None:
    found = contents("config.json", "model.safetensors", "modeling_x.py", "configuration_x.py", "scripts/train.py")
    assert found.code == ("configuration_x.py", "modeling_x.py")
    assert not set(found.code) & set(found.needed)


def test_chat_templates_in_their_folder_are_carried() -> None:
    found = contents("config.json", "model.safetensors", "additional_chat_templates/tool_use.jinja")
    assert "additional_chat_templates/tool_use.jinja" in found.carried


def test_the_recipe_of_a_merged_model_is_not_carried_into_the_next_mix() -> None:
    assert "recipe.json" not in contents("config.json", "model.safetensors", "recipe.json").needed


def test_a_folder_without_weights_says_what_is_missing() -> None:
    with pytest.raises(SourceError, match=r"'org/a'"):
        contents("config.json", "README.md")


def test_a_repo_with_nothing_but_gguf_says_where_to_look() -> None:
    with pytest.raises(SourceError, match=r"(?s)'org/a' holds GGUF files only\..*original safetensors weights"):
        contents("config.json", "model-Q4_K_M.gguf")


# -- sentence-transformers -----------------------------------------------------------------------------------------


def test_an_embedder_brings_its_modules() -> None:
    found = contents(
        *("config.json", "model.safetensors", "config_sentence_transformers.json", "1_Pooling/config.json"),
        *("2_Dense/config.json", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin", "onnx/model.onnx"),
        modules__json=[
            *MODULES,
            {"idx": 2, "path": "2_Dense", "type": "D"},
            {"idx": 3, "path": "3_Normalize", "type": "N"},
        ],
    )
    assert found.weight_folders == ("", "2_Dense")
    assert found.weight_files == ("model.safetensors", "2_Dense/model.safetensors")
    assert {"modules.json", "1_Pooling/config.json", "2_Dense/config.json"} <= set(found.carried)


def test_the_transformer_of_an_old_embedder_lies_in_a_folder() -> None:
    found = contents(
        *(
            "0_Transformer/config.json",
            "0_Transformer/pytorch_model.bin",
            "0_Transformer/vocab.txt",
            "1_Pooling/config.json",
        ),
        modules__json=[{"path": "0_Transformer", "type": "T"}, {"path": "1_Pooling", "type": "P"}],
    )
    assert (found.main, found.weight_files) == ("0_Transformer", ("0_Transformer/pytorch_model.bin",))
    assert "0_Transformer/vocab.txt" in found.carried


def test_the_modules_behind_a_router_have_weights_of_their_own() -> None:
    files = Files(
        *("query_0_T/config.json", "query_0_T/model.safetensors", "document_0_T/config.json"),
        "document_0_T/model.safetensors",
        modules__json=[{"path": "", "type": "Router"}],
        router_config__json={"types": {"query_0_T": "T", "document_0_T": "T"}},
    )
    found = read_model_files(files)
    assert found.weight_folders == ("query_0_T", "document_0_T")
    assert "router_config.json" in found.carried


def test_a_router_after_the_transformer_keeps_its_own_file() -> None:
    files = Files(
        *("config.json", "model.safetensors", "2_Router/query_0_Dense/model.safetensors"),
        "2_Router/query_0_Dense/config.json",
        modules__json=[{"path": "", "type": "Transformer"}, {"path": "2_Router", "type": "Router"}],
        **{"2_Router/router_config__json": {"types": {"query_0_Dense": "Dense"}}},
    )
    found = read_model_files(files)
    assert found.weight_folders == ("", "2_Router/query_0_Dense")
    assert {"2_Router/router_config.json", "2_Router/query_0_Dense/config.json"} <= set(found.carried)


@pytest.mark.parametrize(
    "modules",
    [{}, [3], [{"path": "x"}], [{"type": "x"}], "x"],
    ids=["mapping", "numbers", "no type", "no path", "text"],
)
def test_damaged_modules_are_told(modules: Any) -> None:
    with pytest.raises(
        CheckpointError, match=r"(?s)'modules.json' of 'org/a' is not a list of modules.*Save the model"
    ):
        read_modules(Files(modules__json=modules))


@pytest.mark.parametrize("path", ["../x", "/etc", "a/../../b", "..\\x", "C:\\x"])
def test_modules_outside_of_the_repo_are_refused(path: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(f"'modules.json' of 'org/a' names '{path}', outside of")):
        read_modules(Files(modules__json=[{"path": path, "type": "T"}]))


@pytest.mark.parametrize("routes", [[], {}, {"types": {}}, {"types": ["a"]}])
def test_a_router_to_nowhere_is_told(routes: Any) -> None:
    with pytest.raises(CheckpointError, match=r"'router_config.json' of 'org/a' names no modules under `types`"):
        read_model_files(
            Files("model.safetensors", modules__json=[{"path": "", "type": "R"}], router_config__json=routes)
        )


def test_a_router_out_of_the_repo_is_refused() -> None:
    routes = {"types": {"../x": "T"}}
    with pytest.raises(CheckpointError, match=r"'router_config.json' of 'org/a' names '\.\./x', outside of the repo"):
        read_model_files(
            Files("model.safetensors", modules__json=[{"path": "", "type": "R"}], router_config__json=routes)
        )


def test_a_model_without_modules_has_none() -> None:
    assert read_modules(Files("config.json")) == []


# -- adapters ------------------------------------------------------------------------------------------------------


def test_an_adapter_is_its_config_weights_and_tokenizer() -> None:
    found = contents(
        "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "tokenizer.json", "README.md"
    )
    assert found.adapter
    assert found.weight_files == ("adapter_config.json", "adapter_model.safetensors")
    assert found.carried == ("tokenizer.json",)


def test_a_whole_model_that_keeps_an_adapter_config_is_a_whole_model() -> None:
    found = contents("config.json", "model.safetensors", "adapter_config.json")
    assert not found.adapter
    assert found.weight_files == ("model.safetensors",)
    assert "adapter_config.json" not in found.needed


@pytest.mark.parametrize("whole", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"])
@pytest.mark.parametrize("own", ["adapter_model.safetensors", "adapter_model.bin"])
def test_a_whole_model_with_an_adapter_beside_it_is_refused(whole: str, own: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        contents("config.json", whole, "adapter_config.json", own)
    assert str(caught.value) == (
        f"'org/a' holds the weights of a whole model and those of an adapter on it ('{own}').\n"
        "transformers would load both, with the adapter active; whether the mix should include the adapter's change "
        "is ambiguous.\n"
        f"Move 'adapter_config.json' and '{own}' to a folder of their own and name that one, with the model as its "
        "`base`; or merge them with PEFT (`merge_and_unload`) and save the result; or remove the adapter's files."
    )
    assert caught.value.model == "org/a"


def test_an_adapter_beside_the_transformer_of_an_old_embedder_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^'0_Transformer' of 'org/a' holds the weights of a whole model and"):
        contents(
            *("0_Transformer/config.json", "0_Transformer/model.safetensors", "0_Transformer/adapter_config.json"),
            "0_Transformer/adapter_model.safetensors",
            modules__json=[{"path": "0_Transformer", "type": "T"}],
        )


# -- JSON ----------------------------------------------------------------------------------------------------------


def test_a_config_is_a_mapping_or_nothing() -> None:
    assert read_config(Files("model.safetensors")) == {}
    assert read_config(Files(config__json={"model_type": "bert"})) == {"model_type": "bert"}
    assert read_config(Files().put("inner/config.json", {"x": 1}), "inner") == {"x": 1}
    with pytest.raises(CheckpointError, match=r"'config.json' of 'org/a' is not a JSON mapping"):
        read_config(Files(config__json=[]))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_told_with_its_model(content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"'config.json' of 'org/a' is not JSON") as caught:
        read_json(Files(config__json=content), "config.json")
    assert caught.value.model == "org/a"


@pytest.mark.parametrize(
    "name",
    ["train.json", "generated_predictions.txt", "eval_nbest_predictions.json", "predict_results_mrpc.txt", "notes.txt"],
)
def test_what_training_leaves_is_no_part_of_a_model(tmp_path, name):
    for path in ("config.json", "model.safetensors", "bpe.codes", "prophetnet.tokenizer", name):
        (tmp_path / path).write_bytes(b"{}")
    assert set(read_model_files(LocalFiles(tmp_path)).carried) == {"config.json", "bpe.codes", "prophetnet.tokenizer"}


@pytest.mark.parametrize("content", [rb'{"id2label": {"0": "\ud800"}}', rb'{"\ud800": 1}', b'{"x": "\xed\xa0\x80"}'])
def test_half_a_character_is_refused_since_no_file_could_hold_it(content: bytes) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_config(Files(config__json=content))
    assert str(caught.value) == (
        "'config.json' of 'org/a' is not valid text: it has '\\ud800', half a character.\n"
        "No file of the mix could hold it.\nDownload or save the model again."
    )
    assert caught.value.model == "org/a"


def test_a_character_in_two_halves_is_a_character() -> None:
    assert read_config(Files(config__json=rb'{"x": "\ud83c\udf78"}')) == {"x": "🍸"}


# -- weights beside the standard files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("colbert_linear.pt", "sparse_linear.pt", "model_head.pkl", "value_head.safetensors", "mm_projector.bin"),
        *("adapter.deu.safetensors", "language_model/model.safetensors", "decoder.pth", "head.joblib"),
    ],
)
def test_weights_beside_the_standard_files_are_named(name: str) -> None:
    found = contents("config.json", "model.safetensors", name)
    assert found.beside == (name,)
    assert found.notes == (f"'org/a' also has weights in '{name}', which are not mixed and not in the mix.",)
    assert name not in found.needed


def test_training_states_and_copies_in_other_formats_are_no_weights_beside() -> None:
    found = contents(
        *(
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "tf_model.h5",
            "flax_model.msgpack",
            "rust_model.ot",
        ),
        *("model.fp16.safetensors", "pytorch_model-00001-of-00002.bin", "consolidated.00.pth", "model-Q4_K_M.gguf"),
        *("onnx/model.bin", "openvino/openvino_model.bin", "original/x.pth", "checkpoint-500/head.bin", "vocab.txt"),
        *("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "scaler.pt", "random_states_0.pkl"),
        *("global_step5/zero_pp_rank_0_optim_states.pt", "runs/x.bin"),
    )
    assert (found.beside, found.notes) == ((), ())


def test_many_weights_beside_the_standard_files_are_counted() -> None:
    found = contents("config.json", "model.safetensors", *(f"adapter.{n}.safetensors" for n in "abcdef"))
    assert "'adapter.d.safetensors' and 2 more, which are not mixed" in found.notes[0]


@pytest.mark.parametrize(
    "name",
    [
        *("non_lora_trainables.bin", "trainable_params.bin", "new_embeddings.safetensors", "mm_projector.bin"),
        *("value_head.bin", "value_head.safetensors", "v_head.pt", "colbert_linear.pt", "model_head.pkl"),
        *("adapter.deu.safetensors", "adapter.fra.bin"),
    ],
)
def test_an_adapter_with_trained_weights_beside_it_is_refused(name: str) -> None:
    words = (
        rf"(?s)The adapter 'org/a' has more trained weights in '{name}', which PEFT does not load\..*merge_and_unload"
    )
    with pytest.raises(CheckpointError, match=words):
        contents("adapter_config.json", "adapter_model.safetensors", name)


@pytest.mark.parametrize("name", ["ggml-adapter-model.bin", "training_args.bin", "optimizer.pt", "old/value_head.bin"])
def test_what_lies_beside_an_adapter_without_being_trained_with_it_is_no_reason_to_refuse(name: str) -> None:
    assert contents("adapter_config.json", "adapter_model.safetensors", name).adapter


@pytest.mark.parametrize("config", [{"num_hidden_layers": 10**9}, {"text_config": {"n_layer": 10_001}}])
def test_a_config_of_endless_layers_is_refused_before_anything_builds_them(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="more than 10,000"):
        read_config(LocalFiles(tmp_path))
