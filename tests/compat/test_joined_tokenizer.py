"""Tokenizers trained on English and on German, joined: every text comes out as before, every row is its token's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as kinds

from cocktail_hub import MixOptions, mix
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.compat.joined_tokenizer import join_tokenizers
from cocktail_hub.compat.vocabulary import find_vocabulary
from cocktail_hub.errors import IncompatibleError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

ENGLISH = [line for line in (Path(__file__).parents[2] / "docs/concepts.md").read_text("utf-8").split("\n") if line]
GERMAN = [
    "Der schnelle braune Fuchs springt über den faulen Hund, und der Hund schläft weiter.",
    "Übung macht den Meister, aber jeder Anfang ist schwer.",
    "Die Größe und die Maße der Straße sind bekannt, die der Brücke nicht.",
    "Wir müssen für die Prüfung noch viele schöne Wörter lernen, sagte die Schülerin.",
] * 10
SPECIAL = ["<unk>", "<s>", "</s>"]


def trained(kind: str, texts: list[str], *added: str) -> hf.PreTrainedTokenizerFast:
    keys = {"special_tokens": SPECIAL, "show_progress": False, "vocab_size": 340}
    if kind == "BPE":
        tokenizer = Tokenizer(kinds.BPE())
        tokenizer.pre_tokenizer, tokenizer.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **keys)
    elif kind == "WordPiece":
        tokenizer = Tokenizer(kinds.WordPiece(unk_token="<unk>"))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(**keys)
    else:
        tokenizer = Tokenizer(kinds.Unigram())
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **keys)
    tokenizer.train_from_iterator(texts, trainer)
    fast = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.add_tokens(list(added))
    return fast


def saved(folder: Path, kind: str, texts: list[str], seed: int, *added: str) -> Path:
    torch.manual_seed(seed)
    tokenizer = trained(kind, texts, *added)
    config = hf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    hf.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ingredients(*folders: Path) -> list[dict[str, object]]:
    return [{"model": str(path), "weight": weight} for path, weight in zip(folders, (0.75, 0.25), strict=True)]


def vocabulary_of(folder: Path) -> dict[str, int]:
    return dict(hf.AutoTokenizer.from_pretrained(folder).get_vocab())


def assert_rows(mixed: Path, one: Path, two: Path) -> None:
    """Each token has the mean of its rows, or the row of the model that has it; other rows are zeros."""
    mine, theirs, both = vocabulary_of(one), vocabulary_of(two), vocabulary_of(mixed)
    assert len(set(both.values())) == len(both)
    first, second, made = (load_file(folder / "model.safetensors") for folder in (one, two, mixed))
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        for token, row in both.items():
            if token in mine and token in theirs:
                want = first[name][mine[token]].double() * 0.75 + second[name][theirs[token]].double() * 0.25
            else:
                want = (first[name][mine[token]] if token in mine else second[name][theirs[token]]).double()
            assert torch.equal(made[name][row], want.float()), token
        assert not made[name][max(both.values()) + 1 :].any()


@pytest.mark.whole
@pytest.mark.parametrize("kind", ["BPE", "WordPiece", "Unigram"])
def test_two_languages_come_out_of_the_joined_tokenizer_as_before(tmp_path: Path, kind: str) -> None:
    one = saved(tmp_path / "one", kind, ENGLISH, 1, "<|a|>")
    two = saved(tmp_path / "two", kind, GERMAN, 2, "<|b|>", "<|a|>")
    recipe = {"ingredients": ingredients(one, two), "tokenizer": "union", "pad_to_multiple_of": 64}
    made = mix(recipe, output=tmp_path / "mix").path
    before = [hf.AutoTokenizer.from_pretrained(folder) for folder in (one, two)]
    joined = hf.AutoTokenizer.from_pretrained(made)
    assert set(joined.get_vocab()) == set(before[0].get_vocab()) | set(before[1].get_vocab())
    assert before[0].get_vocab().items() <= joined.get_vocab().items()
    for own, texts in zip(before, (ENGLISH, GERMAN), strict=True):
        for text in [*texts, f"{texts[0]} <|a|> {texts[1]}"]:
            assert joined.decode(joined(text)["input_ids"]) == own.decode(own(text)["input_ids"])
    assert joined.convert_tokens_to_ids(joined.tokenize("<|b|>")) == [joined.get_vocab()["<|b|>"]]
    german = set(before[1].get_vocab()) - set(before[0].get_vocab())
    assert german & {token for text in GERMAN for token in joined.tokenize(text)}  # what only the second has is used
    assert_rows(made, one, two)
    model = hf.AutoModelForCausalLM.from_pretrained(made)
    assert model.config.vocab_size % 64 == 0
    assert model.config.vocab_size - len(joined) < 64
    assert model.lm_head.weight.shape[0] == model.config.vocab_size
    again = mix(recipe, output=tmp_path / "again", options=MixOptions(force=True, threads=2, max_memory="2MB")).path
    assert (again / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()


@pytest.mark.whole
def test_the_tokens_of_a_named_model_decide_and_special_ids_follow_them(tmp_path: Path) -> None:
    one, two = (
        saved(tmp_path / "one", "BPE", ENGLISH, 1, "<|a|>"),
        saved(tmp_path / "two", "BPE", GERMAN, 2, "<|b|>", "<|a|>"),
    )
    ids = [vocabulary_of(folder)["<|a|>"] for folder in (one, two)]
    for name, extra in (("config.json", {}), ("generation_config.json", {"suppress_tokens": [ids[0], 1]})):
        path = one / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [2, ids[0]]} | extra))
    made = mix({"ingredients": ingredients(one, two), "tokenizer": str(two)}, output=tmp_path / "mix").path
    assert ids[0] != ids[1]
    assert vocabulary_of(made) == vocabulary_of(two)
    assert_rows(made, one, two)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((made / name).read_text())["eos_token_id"] == [2, ids[1]]
    assert json.loads((made / "generation_config.json").read_text())["suppress_tokens"] == [ids[1], 1]
    assert json.loads((made / "config.json").read_text())["vocab_size"] == len(vocabulary_of(two))


@pytest.mark.whole
def test_a_rule_gives_the_row_of_a_token(tmp_path: Path) -> None:
    one = saved(tmp_path / "one", "BPE", ENGLISH, 1, "<|a|>")
    two, three = (saved(tmp_path / name, "BPE", ENGLISH, seed) for name, seed in (("two", 2), ("three", 3)))
    listed = [{"model": str(path), "weight": w} for path, w in ((one, 0.5), (two, 0.25), (three, 0.25))]
    rules = {"<s>": {"source": str(three), "force": True}, "<|a|>": str(one)}
    made = load_file(mix({"ingredients": listed, "tokens": rules}).path / "model.safetensors")["lm_head.weight"]
    assert torch.equal(made[1], load_file(three / "model.safetensors")["lm_head.weight"][1])
    assert torch.equal(made[-1], load_file(one / "model.safetensors")["lm_head.weight"][-1])
    rules = {"<s>": {"source": "zero", "force": True}, "<|a|>": {"source": str(two), "token": "</s>", "force": True}}
    made = load_file(mix({"ingredients": listed, "tokens": rules}).path / "model.safetensors")["lm_head.weight"]
    assert not made[1].any()
    assert torch.equal(made[-1], load_file(two / "model.safetensors")["lm_head.weight"][2])
    halves = [{"model": str(path), "weight": 0.5} for path in (one, two)]
    heads = [load_file(path / "model.safetensors")["lm_head.weight"].double() for path in (one, two)]
    for rule, want in (
        ({"source": "zero"}, heads[0][-1] * 0.5),
        ({"source": str(two), "token": "</s>"}, (heads[0][-1] + heads[1][2]) * 0.5),
    ):
        made = load_file(mix({"ingredients": halves, "tokens": {"<|a|>": rule}}).path / "model.safetensors")
        assert torch.equal(made["lm_head.weight"][-1], want.float())
    based = {"method": "task_arithmetic", "base": str(two), "ingredients": [str(one), str(three)]}
    based["ingredients"] = [{"model": str(one), "weight": 0.5}, {"model": str(three), "weight": 0.25}]
    made = load_file(mix(based | {"tokens": {"<s>": {"source": "base", "force": True}}}).path / "model.safetensors")
    assert torch.equal(made["lm_head.weight"][1], load_file(two / "model.safetensors")["lm_head.weight"][1])


@pytest.mark.whole
def test_rules_for_tokens_that_are_not_there_are_refused(tmp_path: Path) -> None:
    one, two = saved(tmp_path / "one", "BPE", ENGLISH, 1, "<|a|>"), saved(tmp_path / "two", "BPE", ENGLISH, 2)
    for token, whose in (("<|a|>", "that model"), ("<|x|>", "the mix")):
        with pytest.raises(IncompatibleError, match=f"the row of .* from '.*two', but {whose} has no such token"):
            mix({"ingredients": ingredients(one, two), "tokens": {token: str(two)}})


@pytest.mark.whole
def test_tokenizers_of_two_kinds_are_not_joined_and_the_way_out_works(tmp_path: Path) -> None:
    one, two = saved(tmp_path / "one", "BPE", ENGLISH, 1), saved(tmp_path / "two", "WordPiece", GERMAN, 2)
    with pytest.raises(IncompatibleError, match=r"of another kind \(WordPiece, WordPiece, ## and BPE, ByteLevel\)"):
        mix({"ingredients": ingredients(one, two), "tokenizer": "union"})
    made = mix({"ingredients": ingredients(one, two), "tokenizer": str(one)}, output=tmp_path / "mix").path
    assert_rows(made, one, two)


@pytest.mark.whole
def test_without_tokenizers_rows_cannot_be_moved(tmp_path: Path) -> None:
    one, two = saved(tmp_path / "one", "BPE", ENGLISH, 1), saved(tmp_path / "two", "BPE", ENGLISH, 2)
    (two / "tokenizer.json").unlink()
    with pytest.raises(IncompatibleError, match=r"The rows of '.*two' cannot be told by their tokens"):
        mix({"ingredients": ingredients(one, two), "pad_to_multiple_of": 64})


def test_added_tokens_keep_their_flags_and_files_without_new_tokens_are_left_alone(tmp_path: Path) -> None:
    found = []
    for name, added in (("one", []), ("two", [hf.AddedToken("<x>", lstrip=True, special=True)])):
        tokenizer = trained("Unigram", ENGLISH)
        tokenizer.add_tokens(added, special_tokens=True)
        tokenizer.save_pretrained(tmp_path / name)
        found.append(find_vocabulary(LocalFiles(tmp_path / name, name=name)))
    tokens = dict(found[1].known)
    joined = json.loads(join_tokenizers(found, tokens))
    (token,) = [token for token in joined["added_tokens"] if token["content"] == "<x>"]
    assert token["id"] == len(tokens) - 1
    assert token["lstrip"]
    assert token["special"]
    assert joined["model"]["vocab"][-1] == ["<x>", -100.0]


def test_files_without_lists_of_added_tokens_are_joined(tmp_path: Path) -> None:
    found = []
    for name, words in (("one", ["a", "b"]), ("two", ["a", "c"])):
        (tmp_path / name).mkdir()
        data = {"model": {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(words)}}}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(data))
        found.append(find_vocabulary(LocalFiles(tmp_path / name, name=name)))
    joined = json.loads(join_tokenizers(found, {0: "a", 1: "b", 2: "c"}))
    assert joined == {"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2}}, "added_tokens": []}
