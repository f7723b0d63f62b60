"""Would a folder load as what its config says? Tried from its small files and the shapes of its tensors."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import model_zoo
import models
import pytest
import torch
import transformers

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.evaluation.load_trial import Request, Verdict, try_loading

pytestmark = pytest.mark.whole

FINE = Verdict()
CODE = """
import torch, transformers

class OwnConfig(transformers.PreTrainedConfig):
    model_type = "own"

class OwnModel(transformers.PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(3, 2)
        self.post_init()
"""


def saved(folder: Path, model: transformers.PreTrainedModel, **config: Any) -> Request:
    """A model in a folder, with other values in its config.json."""
    model.save_pretrained(folder)
    edit(folder / "config.json", **config)
    return request_for(folder)


def request_for(folder: Path, **fields: Any) -> Request:
    specs = read_weight_files(LocalFiles(folder)).specs
    return Request(name="org/m", folder=str(folder), shapes={"": {n: s.shape for n, s in specs.items()}}, **fields)


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def renamed(request: Request, names: Any) -> Request:
    """The request with tensors of other names; those that become empty are left out."""
    shapes = {names(name): shape for name, shape in request.shapes[""].items()}
    shapes.pop("", None)
    return Request(**asdict(request) | {"shapes": {"": shapes}})


@pytest.fixture
def encoder(tmp_path: Path) -> Request:
    return saved(tmp_path / "encoder", models.bert())


# -- tensors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["BERT", "T5", "GPT-2", "Mixtral", "Whisper", "CLIP", "BART", "wav2vec2"])
def test_a_model_as_it_was_saved_is_fine(tmp_path: Path, family: str) -> None:
    assert try_loading(saved(tmp_path / "m", (model_zoo.FAMILIES | model_zoo.MORE_FAMILIES)[family]())) == FINE


def test_names_that_the_class_does_not_know_are_refused_with_numbers(encoder: Request) -> None:
    """As LightningModule saves a model in its attribute `model`."""
    verdict = try_loading(renamed(encoder, lambda name: f"model.{name}"))
    assert verdict.error == (
        "The mix is no BertModel: it lacks 'embeddings.word_embeddings.weight' and 36 more, and has "
        "'model.embeddings.LayerNorm.bias' and 38 more instead.\n"
        "transformers would start at random what is missing, and only warn, so the mix would not work.\n"
        "Load the ingredients with the code that saved them, save them with `save_pretrained`, and mix those."
    )
    assert verdict.tensor == "embeddings.word_embeddings.weight"


def test_a_head_that_no_ingredient_has_is_refused(encoder: Request) -> None:
    edit(Path(encoder.folder, "config.json"), architectures=["BertForSequenceClassification"])
    found = try_loading(encoder).error
    assert found.startswith("The mix is no BertForSequenceClassification: it lacks 'classifier.weight' and 1 more")
    assert found.endswith("or correct `architectures` in the config.json of 'org/m'.")


@pytest.mark.parametrize("task", ["text-ranking", "text-classification", "token-classification", "fill-mask"])
def test_a_task_whose_head_is_missing_is_refused(encoder: Request, task: str) -> None:
    found = try_loading(Request(**asdict(encoder) | {"task": task})).error
    assert found.endswith(f"\nLeave out `task: {task}`, or mix models that were trained for it.")


def test_a_task_that_the_model_does_is_fine(tmp_path: Path) -> None:
    for task, model in {
        "text-ranking": models.bert("BertForSequenceClassification"),
        "sentence-similarity": models.bert(),
        "feature-extraction": models.bert("BertForMaskedLM"),
    }.items():
        saved(tmp_path / task, model)
        assert try_loading(request_for(tmp_path / task, task=task)).error == ""


@pytest.mark.parametrize("build", [models.llama, models.t5])
def test_a_model_that_answers_in_words_needs_no_head_for_a_task(tmp_path: Path, build: Any) -> None:
    saved(tmp_path / "m", build())
    assert try_loading(request_for(tmp_path / "m", task="text-ranking")) == FINE


def test_another_shape_than_by_the_config_is_refused(tmp_path: Path) -> None:
    found = try_loading(saved(tmp_path / "m", models.llama(), intermediate_size=7)).error
    assert ".weight' has shape [" in found
    assert "in such a LlamaForCausalLM" in found
    assert found.endswith("name the ingredient whose config.json fits its weights, or correct that file.")


def test_another_number_of_experts_than_by_the_config_is_refused(tmp_path: Path) -> None:
    model = model_zoo.qwen2_moe()
    found = try_loading(saved(tmp_path / "m", model, num_experts=model.config.num_experts + 1)).error
    assert "The mix does not fit its config.json: 'model.layers.0.mlp." in found


def test_a_pooler_may_be_missing_but_not_under_a_head(tmp_path: Path, encoder: Request) -> None:
    verdict = try_loading(renamed(encoder, lambda name: "" if name.startswith("pooler") else name))
    assert verdict == Verdict(
        notes=("A BertModel starts 'pooler.dense.weight' and 1 more at random, which no ingredient has.",)
    )
    classifier = saved(tmp_path / "c", models.bert("BertForSequenceClassification"))
    found = try_loading(renamed(classifier, lambda name: "" if "pooler" in name else name)).error
    assert found.startswith("The mix is no BertForSequenceClassification: it lacks 'bert.pooler.dense.weight' and")


def test_tensors_that_the_class_does_not_read_are_named(encoder: Request) -> None:
    more = {"": {**encoder.shapes[""], "value_head.weight": (1, 16)}}
    assert try_loading(Request(**asdict(encoder) | {"shapes": more})) == Verdict(
        notes=("A BertModel does not read 'value_head.weight', which the mix has.",)
    )


def test_tied_tensors_are_there_under_one_name(tmp_path: Path) -> None:
    request = saved(tmp_path / "m", models.llama(tie_word_embeddings=True))
    assert "lm_head.weight" not in request.shapes[""]
    assert try_loading(request) == FINE
    edit(tmp_path / "m" / "config.json", tie_word_embeddings=False)
    assert try_loading(request).error.startswith("The mix is no LlamaForCausalLM: it lacks 'lm_head.weight'.")


# -- sentence-transformers -----------------------------------------------------------------------------------------


def as_module(folder: Path, **settings: Any) -> None:
    (folder / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}])
    )
    if settings:
        (folder / "sentence_bert_config.json").write_text(json.dumps(settings))


def test_an_embedder_needs_no_pooler_and_may_have_a_head(tmp_path: Path) -> None:
    request = saved(tmp_path / "m", models.bert("BertForMaskedLM"))
    as_module(tmp_path / "m")
    assert try_loading(request) == FINE


def test_an_embedder_of_an_encoder_and_decoder_is_the_encoder(tmp_path: Path) -> None:
    request = saved(tmp_path / "m", models.t5())
    as_module(tmp_path / "m")
    assert try_loading(renamed(request, lambda name: "" if name.startswith("decoder") else name)) == FINE


def test_the_task_of_a_module_decides_its_class(tmp_path: Path) -> None:
    request = saved(tmp_path / "m", models.bert())
    as_module(tmp_path / "m", transformer_task="fill-mask")
    assert try_loading(request).error.startswith("The mix is no BertForMaskedLM: it lacks 'cls.predictions")


def test_static_embeddings_are_not_for_transformers(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    assert try_loading(Request(name="m", folder=str(tmp_path), shapes={"": {"embedding.weight": (4, 2)}})) == FINE


# -- files beside the weights ----------------------------------------------------------------------------------------


def test_a_tokenizer_is_loaded_as_a_user_would(encoder: Request) -> None:
    models.words_tokenizer().save_pretrained(encoder.folder)
    assert try_loading(encoder) == FINE
    Path(encoder.folder, "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nonsense"}}')
    verdict = try_loading(encoder)
    assert not verdict.sure
    assert verdict.notes[0].startswith("The tokenizer of the mix does not load here, as little as that of its ingr")


def test_a_tokenizer_that_only_the_mix_cannot_load_is_refused(encoder: Request, tmp_path: Path) -> None:
    models.words_tokenizer().save_pretrained(tmp_path / "giver")
    Path(encoder.folder, "tokenizer.json").write_text("{}")
    found = try_loading(Request(**asdict(encoder) | {"givers": {"tokenizer": str(tmp_path / "giver")}})).error
    assert found.startswith("The tokenizer of the mix does not load, though that of its ingredient does: ")
    assert found.endswith("\nSave the tokenizer of the ingredient again, or name another model under `tokenizer`.")


def test_a_processor_is_loaded_too(tmp_path: Path) -> None:
    request = saved(tmp_path / "m", model_zoo.FAMILIES["ViT"]())
    transformers.ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "m")
    assert try_loading(request) == FINE
    (tmp_path / "m" / "preprocessor_config.json").write_text("[]")
    assert try_loading(request).notes[0].startswith("The processor of the mix does not load here, as little")


def test_a_config_that_no_class_takes_is_a_doubt(tmp_path: Path) -> None:
    verdict = try_loading(saved(tmp_path / "m", models.bert(), num_attention_heads=7))
    assert not verdict.sure
    assert verdict.notes[0].startswith("The mix could not be tried as BertModel: ")


def test_a_model_type_that_transformers_lacks_is_left_alone(encoder: Request) -> None:
    edit(Path(encoder.folder, "config.json"), model_type="unheard_of", architectures=["UnheardOf"])
    assert try_loading(encoder) == FINE


# -- code ------------------------------------------------------------------------------------------------------------


def test_code_is_run_only_where_it_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "modeling_own.py").write_text(CODE)
    named = {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    config = {"model_type": "own", "architectures": ["OwnModel"], "auto_map": named}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shapes = {"layer.weight": (2, 3), "layer.bias": (2,)}
    request = Request(name="m", folder=str(tmp_path), shapes={"": shapes}, trust_remote_code=True)
    assert try_loading(request) == FINE
    less = Request(**asdict(request) | {"shapes": {"": {"layer.weight": (2, 3)}}})
    assert try_loading(less).error.startswith("The mix is no OwnModel: it lacks 'layer.bias'.")
    assert try_loading(Request(**asdict(less) | {"trust_remote_code": False})) == FINE


# -- in a process of its own -----------------------------------------------------------------------------------------


@pytest.mark.whole
@pytest.mark.parametrize("light", [True, False])
def test_a_process_comes_to_the_same_verdict(encoder: Request, light: bool) -> None:
    models.words_tokenizer().save_pretrained(encoder.folder)
    less = renamed(encoder, lambda name: "" if name.startswith("pooler") else name)
    code = f"from cocktail_hub.evaluation.load_trial import serve; serve({light=})"
    order = json.dumps(asdict(less))
    done = subprocess.run([sys.executable, "-c", code], input=order, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert Verdict(**found | {"notes": tuple(found["notes"])}) == try_loading(less)


def test_building_leaves_the_random_numbers_alone(encoder: Request) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    try_loading(encoder)
    assert torch.equal(torch.rand(3), expected)
