from __future__ import annotations

import inspect
import json
from pathlib import Path

import models
import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer

from cocktail_hub import mix_models, mix_models_by_layers, mix_models_with_data
from cocktail_hub.errors import CacheError, RecipeError, ScoringError, SourceError
from cocktail_hub.evaluation import scorer
from cocktail_hub.integrations.lm_cocktail import TASK_OF_MODEL_TYPE

pytestmark = pytest.mark.whole

ANSWERS = [
    {"input": "where is the pod", "output": "in the park"},
    {"input": "the cat sat on", "output": "the mat"},
    {"input": "is it paris", "output": "no it is rome"},
]
PASSAGES = [
    {"query": "where is the cat", "pos": ["the cat sat on the mat", "mat"], "neg": ["a dog ran", "paris", "yes"]},
    {"query": "who ran", "pos": ["a dog ran in the park"], "neg": ["the cat sat", "rome is it"]},
    {"query": "what is it", "pos": ["it is paris"], "neg": ["no", "the pod keeps crashing"]},
]
KINDS = {
    "decoder": ("llama", "LlamaForCausalLM", ANSWERS),
    "encoder": ("bert", "BertModel", PASSAGES),
    "reranker": ("reranker", "BertForSequenceClassification", PASSAGES),
    "encoder-decoder": ("t5", "T5ForConditionalGeneration", ANSWERS),
}
"""`model_type` -> family of tiny models, class of the mix, examples."""
EVERY_KIND = pytest.mark.parametrize("model_type", list(KINDS))


def folders(family: str) -> list[str]:
    return list(map(str, models.pair(family).folders))


def recipe_weights_of(model: torch.nn.Module) -> list[float]:
    return [ingredient["weight"] for ingredient in model.cocktail["ingredients"]]


# -- given weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [mix_models, mix_models_by_layers])
@EVERY_KIND
def test_every_kind_is_mixed_by_both_functions(model_type, function):
    family, name, _ = KINDS[model_type]
    model = function(folders(family), model_type, [0.75, 0.25])
    assert type(model).__name__ == name
    assert not model.training
    models.assert_holds(model, models.expected(family))


def test_the_parameters_are_the_originals_in_its_order():
    given = ["model_names_or_paths", "model_type", "weights", "output_path"]
    assert list(inspect.signature(mix_models).parameters) == [*given, "token"]
    assert inspect.signature(mix_models_by_layers) == inspect.signature(mix_models)
    with_data = inspect.signature(mix_models_with_data).parameters
    assert list(with_data)[:8] == [
        *("model_names_or_paths", "model_type", "example_data", "temperature"),
        *("batch_size", "max_input_length", "neg_number", "output_path"),
    ]
    defaults = [parameter.default for parameter in with_data.values()][3:8]
    assert defaults == [5.0, 2, 2048, 7, None]


def test_a_token_opens_private_models():
    ids = [f"{models.ORG}/private-lm-{letter}" for letter in "ab"]
    for repo_id, folder in zip(ids, models.pair("bert").folders, strict=True):
        models.push(folder, repo_id, private=True)
    with pytest.raises(SourceError, match="or it is private"):
        mix_models(ids, "encoder", [0.75, 0.25], token=False)
    models.assert_holds(mix_models(ids, "encoder", [0.75, 0.25], token=models.TOKEN), models.expected("bert"))


def test_the_originals_keywords_work():
    model = mix_models(
        model_names_or_paths=folders("bert"), model_type="encoder", weights=[0.75, 0.25], output_path=None
    )
    models.assert_holds(model, models.expected("bert"))


def test_weights_that_miss_one_by_a_thousandth_are_divided_by_their_sum():
    model = mix_models(folders("bert"), "encoder", [0.5, 0.499])
    assert recipe_weights_of(model) == pytest.approx([0.5 / 0.999, 0.499 / 0.999], rel=1e-15)


def test_three_times_0_333_is_a_third_each(tmp_path):
    third = models.save("bert", 3, tmp_path / "third")
    model = mix_models([*folders("bert"), str(third)], "encoder", [0.333, 0.333, 0.333])
    assert recipe_weights_of(model) == [pytest.approx(1 / 3, rel=1e-15)] * 3


@pytest.mark.parametrize("weights", [[0.2, 0.2], [0.5, 0.498], [0.7, 0.302], [1.0, 1.0]])
def test_weights_that_miss_one_by_more_are_refused(weights):
    with pytest.raises(RecipeError, match=r"The weights sum to \S+, not to 1"):
        mix_models(folders("bert"), "encoder", weights)


def test_weights_that_are_no_numbers_or_too_few_are_refused():
    with pytest.raises(RecipeError, match="The weights sum to nan"):
        mix_models(folders("bert"), "encoder", [float("nan"), 1.0])
    with pytest.raises(RecipeError, match="There are 1 weights for 2 models"):
        mix_models(folders("bert"), "encoder", [1.0])


def test_an_unknown_kind_is_refused_with_a_guess():
    with pytest.raises(RecipeError, match="Did you mean 'decoder'"):
        mix_models(folders("bert"), "decodr", [0.5, 0.5])
    with pytest.raises(RecipeError, match="must be a list of Hub ids or folders, got 'a'"):
        mix_models("a", "decoder", [1.0])


def test_a_model_mixed_with_itself_is_itself(tmp_path):
    """The README of the original mixes 'BAAI/bge-reranker-base' with 'BAAI/bge-reranker-base'."""
    folder = models.pair("reranker").folders[0]
    model = mix_models([str(folder)] * 2, "reranker", [0.5, 0.5], str(tmp_path / "mix"))
    models.assert_holds(model, models.weights_of(folder))


def test_a_model_that_is_listed_twice_among_others_gets_the_sum_of_its_weights():
    a, b = folders("bert")
    models.assert_holds(mix_models([a, b, a], "encoder", [0.5, 0.25, 0.25]), models.expected("bert"))


@pytest.mark.parametrize(
    ("model_type", "family", "architecture"),
    [
        ("decoder", "bert", "BertModel"),
        ("decoder", "t5", "T5ForConditionalGeneration"),
        ("reranker", "bert", "BertModel"),
        ("encoder-decoder", "llama", "LlamaForCausalLM"),
    ],
)
def test_models_of_another_kind_are_refused_before_they_get_random_heads(model_type, family, architecture, tmp_path):
    with pytest.raises(RecipeError, match=f"is a {architecture}, not a model of type {model_type}"):
        mix_models(folders(family), model_type, [0.5, 0.5], str(tmp_path / "mix"))
    assert not (tmp_path / "mix").exists()


# -- the folder ------------------------------------------------------------------------------------------------------


@EVERY_KIND
def test_the_folder_is_complete(model_type, tmp_path):
    family, name, _ = KINDS[model_type]
    mix_models(folders(family), model_type, [0.75, 0.25], str(tmp_path / "mix"))
    loaded = getattr(transformers, name).from_pretrained(tmp_path / "mix")
    models.assert_holds(loaded, models.expected(family))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "mix")
    assert tokenizer.get_vocab() == models.FAMILIES[family][1]().get_vocab()
    recipe = json.loads((tmp_path / "mix" / "recipe.json").read_text())
    assert [i["weight"] for i in recipe["ingredients"]] == [0.75, 0.25]
    assert recipe["task"] == TASK_OF_MODEL_TYPE[model_type]
    assert "- lm-cocktail" in (tmp_path / "mix" / "README.md").read_text()


def test_a_plain_encoder_is_read_by_sentence_transformers_as_the_original_writes_it(tmp_path):
    model = mix_models(folders("bert"), "encoder", [0.75, 0.25], str(tmp_path / "mix"))
    embedder = SentenceTransformer(str(tmp_path / "mix"), device="cpu")
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "mix")("the cat sat", return_tensors="pt")
    with torch.no_grad():
        first = torch.nn.functional.normalize(model(**tokens).last_hidden_state[:, 0], dim=-1)
    torch.testing.assert_close(embedder.encode(["the cat sat"], convert_to_tensor=True), first)


def test_modules_that_the_models_bring_are_kept(tmp_path):
    embedders = [save_mean_pooling(folder, tmp_path / folder.name) for folder in models.pair("bert").folders]
    mix_models([str(e) for e in embedders], "encoder", [0.75, 0.25], str(tmp_path / "mix"))
    modules = [type(module).__name__ for module in SentenceTransformer(str(tmp_path / "mix"), device="cpu")]
    assert modules == ["Transformer", "Pooling"]
    pooling = json.loads((tmp_path / "mix" / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode"] == "mean"


def save_mean_pooling(source: Path, target: Path) -> Path:
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = [Transformer(str(source)), Pooling(16, pooling_mode="mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(target), create_model_card=False)
    return target


def test_a_reranker_is_read_by_sentence_transformers(tmp_path):
    mix_models(folders("reranker"), "reranker", [0.75, 0.25], str(tmp_path / "mix"))
    assert CrossEncoder(str(tmp_path / "mix"), device="cpu").predict([("where", "in the park")]).shape == (1,)


@EVERY_KIND
def test_a_second_run_replaces_the_earlier_mix(model_type, tmp_path):
    family, name, _ = KINDS[model_type]
    for weights in ([0.5, 0.5], [0.75, 0.25], [0.75, 0.25]):
        mix_models(folders(family), model_type, weights, str(tmp_path / "mix"))
    models.assert_holds(getattr(transformers, name).from_pretrained(tmp_path / "mix"), models.expected(family))
    assert [path.name for path in tmp_path.iterdir()] == ["mix"]


def test_a_folder_with_other_content_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CacheError, match=r"is not only an earlier mix: notes.txt"):
        mix_models(folders("bert"), "encoder", [0.5, 0.5], str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_mix_to_which_something_was_added_is_left_alone(tmp_path):
    mix_models(folders("bert"), "encoder", [0.5, 0.5], str(tmp_path / "mix"))
    (tmp_path / "mix" / "results.txt").write_text("0.93")
    with pytest.raises(CacheError, match=r"is not only an earlier mix: results.txt"):
        mix_models(folders("bert"), "encoder", [0.25, 0.75], str(tmp_path / "mix"))
    assert (tmp_path / "mix" / "results.txt").read_text() == "0.93"


def test_the_same_mix_again_leaves_everything_as_it_is(tmp_path):
    for _ in range(2):
        mix_models(folders("bert"), "encoder", [0.5, 0.5], str(tmp_path / "mix"))
        (tmp_path / "mix" / "results.txt").write_text("0.93")
    assert (tmp_path / "mix" / "results.txt").read_text() == "0.93"


def test_a_mix_can_be_mixed_again_into_its_own_folder(tmp_path):
    """The README of the original mixes what `mix_models_with_data` made with one more model."""
    a, b = folders("bert")
    output = str(tmp_path / "mix")
    mix_models([a, b], "encoder", [0.5, 0.5], output)
    state = mix_models([a, output], "encoder", [0.5, 0.5], output).state_dict()
    for name, tensor in models.expected("bert").items():
        torch.testing.assert_close(state[name], tensor)


# -- computed weights ------------------------------------------------------------------------------------------------


@EVERY_KIND
def test_weights_are_the_softmax_of_the_losses(model_type, tmp_path):
    family, name, examples = KINDS[model_type]
    model = mix_models_with_data(folders(family), model_type, examples, 2.0, output_path=str(tmp_path / "mix"))
    assert type(model).__name__ == name
    recipe = json.loads((tmp_path / "mix" / "recipe.json").read_text())
    rows = recipe["evidence"]["ingredients"]
    losses = torch.tensor([row["loss"] for row in rows], dtype=torch.float64)
    assert losses[0] != losses[1]
    weights = [ingredient["weight"] for ingredient in recipe["ingredients"]]
    assert weights == pytest.approx(torch.softmax(-losses / 2.0, dim=0).tolist(), rel=1e-12)
    models.assert_holds(model, models.average(models.pair(family).folders, weights))


@pytest.mark.parametrize("model_type", ["decoder", "encoder-decoder"])
def test_the_loss_is_the_originals_mean_over_batches(model_type):
    """Three examples, two batches: the mean over each batch's tokens, then over batches."""
    family, name, examples = KINDS[model_type]
    folder = models.pair(family).folders[0]
    model = getattr(transformers, name).from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    sums, counts = zip(*(token_losses(model, tokenizer, example, model_type) for example in examples), strict=True)
    expected = ((sums[0] + sums[1]) / (counts[0] + counts[1]) + sums[2] / counts[2]) / 2
    mixed = mix_models_with_data(folders(family), model_type, examples)
    found = mixed.cocktail["evidence"]["ingredients"][0]["loss"]
    assert found == pytest.approx(expected, rel=1e-5)


def token_losses(model, tokenizer, example, model_type) -> tuple[float, int]:
    if model_type == "decoder":
        ids = tokenizer(f"{example['input']} {example['output']}")["input_ids"] + [tokenizer.eos_token_id]
        start = len(tokenizer(example["input"])["input_ids"])
        logits = model(torch.tensor([ids])).logits[0, start - 1 : -1]
        target = torch.tensor(ids[start:])
    else:
        target = torch.tensor(tokenizer(text_target=example["output"])["input_ids"])
        logits = model(**tokenizer(example["input"], return_tensors="pt"), labels=target[None]).logits[0]
    return torch.nn.functional.cross_entropy(logits, target, reduction="sum").item(), len(target)


def test_an_embedders_candidates_are_the_passages_of_its_batch():
    folder = models.pair("bert").folders[0]
    model = transformers.BertModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def embed(text: str) -> torch.Tensor:
        first = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0]
        return torch.nn.functional.normalize(first, dim=0)

    batches = []
    for batch in (PASSAGES[:2], PASSAGES[2:]):
        texts = [text for example in batch for text in (example["pos"][0], *example["neg"][:2])]
        passages = torch.stack([embed(text) for text in texts])
        targets = torch.arange(len(batch)) * 3
        scores = torch.stack([embed(example["query"]) for example in batch]) @ passages.T / 0.05
        batches.append(torch.nn.functional.cross_entropy(scores, targets).item())
    trimmed = [example | {"neg": example["neg"][:2]} for example in PASSAGES]
    mixed = mix_models_with_data(folders("bert"), "encoder", trimmed, neg_number=2, max_input_length=512)
    found = mixed.cocktail["evidence"]["ingredients"][0]["loss"]
    assert found == pytest.approx(sum(batches) / 2, rel=1e-5)


def test_the_misspelt_parameter_of_the_original_is_accepted():
    spelt = mix_models_with_data(folders("llama"), "decoder", example_data=ANSWERS, temperature=5.0)
    misspelt = mix_models_with_data(folders("llama"), "decoder", example_ata=ANSWERS, temperature=5.0)
    assert recipe_weights_of(spelt) == recipe_weights_of(misspelt)
    with pytest.raises(RecipeError, match="two spellings of one parameter"):
        mix_models_with_data(folders("llama"), "decoder", ANSWERS, example_ata=ANSWERS)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "`example_data` is empty"),
        (None, "`example_data` is empty"),
        ("examples.jsonl", "must be a list of mappings, got a str"),
        ({"input": "a", "output": "b"}, "must be a list of mappings, got a dict"),
    ],
)
def test_examples_that_are_none_are_refused(examples, message):
    with pytest.raises(RecipeError, match=message):
        mix_models_with_data(folders("llama"), "decoder", examples)


def test_an_example_without_its_keys_is_named():
    with pytest.raises(ScoringError, match="Example 1 has no key 'output'"):
        mix_models_with_data(folders("llama"), "decoder", [ANSWERS[0], {"input": "where"}])


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_nothing(tmp_path):
    broken = models.save("llama", 5, tmp_path / "broken")
    from safetensors.torch import load_file, save_file

    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ScoringError, match=r"broken.* example 0 .*nan|loss.*nan") as caught:
        mix_models_with_data([folders("llama")[0], str(broken)], "decoder", ANSWERS, output_path=str(tmp_path / "mix"))
    assert caught.value.example == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]


def test_a_folder_that_is_taken_is_noticed_before_scoring(tmp_path, monkeypatch):
    monkeypatch.setattr(scorer, "score_folder", lambda *_, **__: pytest.fail("scored"))
    (tmp_path / "notes.txt").write_text("mine")
    fresh = [{"input": "a cat", "output": "ran on a mat"}]
    with pytest.raises(CacheError, match="is not only an earlier mix"):
        mix_models_with_data(folders("llama"), "decoder", fresh, output_path=str(tmp_path))
