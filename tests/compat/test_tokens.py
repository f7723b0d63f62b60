"""Models whose tokens have other rows: which belong together, what is left out, and what the mix then is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from piece_helpers import model
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from cocktail_hub import MixOptions, check, mix, score
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.compat.tokens import AlignedTokens, align_tokens
from cocktail_hub.compat.vocabulary import Vocabulary, alike, find_vocabulary
from cocktail_hub.errors import IncompatibleError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def vocabulary(folder: Path, *learnt: str, added: dict[int, str] | None = None) -> Vocabulary:
    folder.mkdir()
    tokens = [{"id": number, "content": token} for number, token in (added or {}).items()]
    data = {"model": {"vocab": {token: n for n, token in enumerate(learnt)}}, "added_tokens": tokens}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    return find_vocabulary(LocalFiles(folder, name=folder.name))


def aligned(one: Vocabulary, two: Vocabulary, *rows: int | None, **keys: Any) -> AlignedTokens | None:
    return align_tokens([one, two], rows, 0, **keys)


def sources(found: AlignedTokens | None) -> list[list[int | None]]:
    assert found is not None
    listed = []
    for each in found.rows:
        rows: list[int | None] = [None] * each.size
        for run in each.runs:
            rows[run.row : run.row + run.length] = range(run.source, run.source + run.length)
        listed.append(rows)
    return listed


def test_an_added_token_has_no_row_in_the_other_model(tmp_path: Path) -> None:
    one = vocabulary(tmp_path / "one", "a", "b", added={2: "<pad>"})
    two = vocabulary(tmp_path / "two", "a", "b")
    found = aligned(one, two, 3, 2)
    assert sources(found) == [[0, 1, 2], [0, 1, None]]
    assert found.notes == ("'two' lacks 1 tokens of the mix ('<pad>'); others give their rows.",)
    found = aligned(two, one, 2, 3)
    assert sources(found) == [[0, 1], [0, 1]]
    assert found.notes == ("1 tokens of 'one' are left out, because the mix lacks them ('<pad>').",)


def test_added_tokens_are_found_by_their_text(tmp_path: Path) -> None:
    one = vocabulary(tmp_path / "one", "a", added={1: "<pad>", 2: "<|im_start|>"})
    two = vocabulary(tmp_path / "two", "a", added={1: "<|im_start|>", 2: "<tool>"})
    assert sources(aligned(one, two, 3, 3)) == [[0, 1, 2], [0, None, 1]]


def test_padding_belongs_to_padding_and_never_to_a_token(tmp_path: Path) -> None:
    one, two = vocabulary(tmp_path / "one", "a"), vocabulary(tmp_path / "two", "a", added={1: "<x>"})
    assert sources(aligned(one, two, 4, 3)) == [[0, 1, 2, 3], [0, None, 2, None]]
    assert sources(aligned(two, one, 3, 4)) == [[0, 1, 2], [0, None, 2]]


def test_a_spare_token_that_got_a_name_keeps_its_row(tmp_path: Path) -> None:
    one = vocabulary(tmp_path / "one", "a", added={1: "<reserved_0>", 2: "<pad>"})
    two = vocabulary(tmp_path / "two", "a", added={1: "<tool>"})
    assert sources(aligned(one, two, 3, 2)) == [[0, 1, 2], [0, 1, None]]


@pytest.mark.parametrize("other", ["##k", "reserved", "k."])
def test_a_learnt_word_is_never_taken_for_another_that_has_its_place(tmp_path: Path, other: str) -> None:
    one, two = vocabulary(tmp_path / "one", "a", "K", "b"), vocabulary(tmp_path / "two", "b", other, "a")
    assert sources(aligned(one, two, 3, 3, choice="one")) == [[0, 1, 2], [2, None, 0]]


@pytest.mark.parametrize(
    ("one", "other", "are"),
    [
        ("[PAD]", "<pad>", True),
        ("<|end_of_text|>", "<|endoftext|>", True),
        ("<s>", "</s>", False),
        ("<a>", "a", False),
        ("[unused7]", "word", True),
        ("madeupword0001", "word", True),
        ("<|special_3|>", "<x>", True),
    ],
)
def test_which_names_may_be_of_one_token(one: str, other: str, are: bool) -> None:
    assert alike(one, other) is alike(other, one) is are


def test_rows_at_the_same_places_are_left_alone(tmp_path: Path) -> None:
    one = vocabulary(tmp_path / "one", "a", "b", added={2: "<pad>"})
    two = vocabulary(tmp_path / "two", "a", "b")
    assert aligned(one, two, 4, 4) is None


def test_models_that_learnt_other_tokens_are_aligned_only_if_the_recipe_names_the_tokenizer(tmp_path: Path) -> None:
    one, two = vocabulary(tmp_path / "one", "a", "b", "c"), vocabulary(tmp_path / "two", "b", "a")
    assert aligned(one, two, 3, 2) is None
    assert sources(aligned(one, two, 3, 2, choice="one")) == [[0, 1, 2], [1, 0, None]]


def test_without_tokens_or_rows_nothing_is_aligned(tmp_path: Path) -> None:
    one = vocabulary(tmp_path / "one", "a", added={1: "<pad>"})
    assert aligned(one, Vocabulary(name="bare", path="", text=b""), 2, 1) is None
    assert aligned(one, vocabulary(tmp_path / "two", "a"), 2, None) is None


def saved(folder: Path, family: str, seed: int, *added: str, padding: int = 0) -> Path:
    """A model with added tokens, and with rows beyond its last token."""
    make, tokenizer = models.FAMILIES[family][0](), models.FAMILIES[family][1]()
    tokenizer.add_tokens(list(added))
    make.resize_token_embeddings(len(tokenizer) + padding, mean_resizing=False)
    models.fill(make, seed)
    make.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def mixture(*folders: Path, **keys: Any) -> dict[str, Any]:
    return {
        "ingredients": [{"model": str(path), "weight": w} for path, w in zip(folders, (0.75, 0.25), strict=True)]
    } | keys


@pytest.mark.whole
@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("family", ["llama", "llama-tied", "llama-bf16", "masked", "bart", "t5"])
def test_a_model_with_an_added_token_mixes_with_one_without_in_either_order(
    tmp_path: Path, family: str, padding: int
) -> None:
    grown = saved(tmp_path / "grown", family, 1, "<|pad|>")
    plain = saved(tmp_path / "plain", family, 2, padding=padding)
    shared = len(AutoTokenizer.from_pretrained(plain))
    for first, other in ((grown, plain), (plain, grown)):
        made = mix(mixture(first, other))
        mine, theirs = (load_file(path / "model.safetensors") for path in (first, other))
        for name, tensor in load_file(made.path / "model.safetensors").items():
            a, b = mine[name], theirs.get(name, mine[name])
            axis = next((i for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n), None)
            assert tensor.shape == a.shape
            wide = (a.double(), b.double())
            if axis is None:
                assert torch.equal(tensor, (wide[0] * 0.75 + wide[1] * 0.25).to(a.dtype))
                continue
            both = wide[0].narrow(axis, 0, shared) * 0.75 + wide[1].narrow(axis, 0, shared) * 0.25
            assert torch.equal(tensor.narrow(axis, 0, shared), both.to(a.dtype))
            rest = a.shape[axis] - shared
            assert torch.equal(tensor.narrow(axis, shared, rest), a.narrow(axis, shared, rest))
        loaded = AutoModel.from_pretrained(made.path)
        assert loaded.get_input_embeddings().num_embeddings == len(AutoTokenizer.from_pretrained(first)) + (
            padding if first is plain else 0
        )


@pytest.mark.whole
def test_the_bytes_do_not_depend_on_how_the_mix_is_made(tmp_path: Path) -> None:
    recipe = mixture(saved(tmp_path / "a", "llama", 1, "<|pad|>"), saved(tmp_path / "b", "llama", 2))
    found = []
    for number, options in enumerate(({"threads": 1}, {"threads": 3, "max_memory": "3MB"}, {"low_disk": True})):
        made = mix(recipe, output=tmp_path / f"mix-{number}", options=MixOptions(force=True, **options))
        found.append((made.path / "model.safetensors").read_bytes())
    assert found[0] == found[1] == found[2]
    sharded = mix(recipe, output=tmp_path / "sharded", options=MixOptions(force=True, max_shard_size="2KB"))
    tensors = {name: t for path in sharded.path.glob("*.safetensors") for name, t in load_file(path).items()}
    whole = load_file(tmp_path / "mix-0/model.safetensors")
    assert all(torch.equal(tensors[name], whole[name]) for name in whole)


@pytest.mark.whole
def test_the_check_names_what_is_left_out(tmp_path: Path) -> None:
    grown, plain = saved(tmp_path / "grown", "llama", 1, "<|pad|>"), saved(tmp_path / "plain", "llama", 2)
    notes = check(mixture(plain, grown)).notes
    assert f"1 tokens of '{grown}' are left out, because the mix lacks them ('<|pad|>')." in notes


@pytest.mark.whole
def test_models_of_other_sizes_without_tokenizers_are_refused_as_before(tmp_path: Path) -> None:
    grown, plain = saved(tmp_path / "grown", "llama", 1, "<|pad|>"), saved(tmp_path / "plain", "llama", 2)
    (plain / "tokenizer.json").unlink()
    with pytest.raises(IncompatibleError, match=r"its vocabulary has 20 entries, that of .* 21"):
        mix(mixture(grown, plain))


@pytest.mark.whole
@pytest.mark.parametrize("tokenizer", ["first", "union"])
def test_models_are_scored_with_their_own_tokenizers(tmp_path: Path, tokenizer: str) -> None:
    one, two = saved(tmp_path / "one", "llama", 1, "<|a|>"), saved(tmp_path / "two", "llama", 2, "<|b|>", "<|a|>")
    asked = [{"input": "the cat <|a|>", "output": "sat on the mat <|a|>"}]
    open_recipe = {"ingredients": [str(one), str(two)], "tokenizer": tokenizer}
    apart = [score({"ingredients": [str(path), str(path)]}, examples=asked).weights.losses[0] for path in (one, two)]
    found = score(open_recipe, examples=asked).weights
    assert list(found.losses) == apart


@pytest.mark.whole
def test_on_task_vectors_a_token_that_the_base_lacks_is_the_mean_of_the_others(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", "llama", 1)
    one, two = (saved(tmp_path / name, "llama", seed, "<|pad|>") for name, seed in (("one", 2), ("two", 3)))
    listed = [{"model": str(path), "weight": weight} for path, weight in ((one, 0.25), (two, 0.5))]
    recipe = {"method": "task_arithmetic", "base": str(base), "ingredients": listed, "parameters": {"lambda": 0.5}}
    found = {path: load_file(path / "model.safetensors")["lm_head.weight"].double() for path in (base, one, two)}
    made = load_file(mix(recipe).path / "model.safetensors")["lm_head.weight"]
    assert torch.equal(made[20], (found[one][20] / 3 + found[two][20] / 1.5).float())
    both = found[base] * 0.625 + found[one][:20] * 0.125 + found[two][:20] * 0.25
    assert torch.equal(made[:20], both.float())
    assert (
        mix(recipe | {"tokenizer": "base"}).path.joinpath("tokenizer.json").read_bytes()
        == (base / "tokenizer.json").read_bytes()
    )
    assert load_file(mix(recipe | {"tokenizer": "base"}).path / "model.safetensors")["lm_head.weight"].shape[0] == 20


def test_ids_of_sentencepiece_count_where_the_files_agree() -> None:
    pieces = model([("<unk>", 0.0, 2), ("a", -1.0, 1), ("b", -2.0, 1)])
    one = Vocabulary(name="one", path="tokenizer.model", text=pieces, declared={3: "<pad>"})
    two = Vocabulary(name="two", path="tokenizer.model", text=pieces)
    assert sources(aligned(one, two, 4, 3)) == [[0, 1, 2, 3], [0, 1, 2, None]]
    moved = model([("b", 0.0, 1), ("<unk>", 0.0, 2), ("a", -1.0, 1), ("c", -1.0, 1)])
    assert aligned(one, Vocabulary(name="x", path="tokenizer.model", text=moved), 4, 3, choice="one") is None
