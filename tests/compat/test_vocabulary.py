"""Which vocabularies can be mixed, and which differences are reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from piece_helpers import model

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.compat.vocabulary import Vocabulary, compare, find_vocabulary, require_rows
from cocktail_hub.errors import IncompatibleError

WORDS = {"[PAD]": 0, "the": 1, "fox": 2}


def write(folder: Path, vocab: object, added: list[tuple[int, str]] = (), **model: object) -> LocalFiles:
    folder.mkdir()
    tokens = [{"id": number, "content": token} for number, token in added]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab, **model}, "added_tokens": tokens}))
    return LocalFiles(folder, name=folder.name)


def notes(tmp_path: Path, first: tuple, other: tuple) -> list[str]:
    return compare(
        find_vocabulary(write(tmp_path / "base", *first)), find_vocabulary(write(tmp_path / "tuned", *other))
    )


def test_equal_vocabularies_have_no_notes_in_whatever_order_they_are_written(tmp_path: Path) -> None:
    assert notes(tmp_path, (WORDS,), (dict(reversed(WORDS.items())),)) == []


def test_a_unigram_vocabulary_is_a_list_of_tokens_with_scores(tmp_path: Path) -> None:
    listed = [[token, 0.5] for token in WORDS]
    assert notes(tmp_path, (WORDS,), (listed,)) == []


def test_an_id_that_belongs_to_another_token_is_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match=r"different vocabularies, 1 ids .*2 is 'fox' and 'cat'") as caught:
        notes(tmp_path, (WORDS,), ({**{k: v for k, v in WORDS.items() if k != "fox"}, "cat": 2},))
    assert caught.value.model == "tuned"


def test_a_token_that_became_an_added_token_with_another_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="2 is 'fox' and '<x>'"):
        notes(tmp_path, (WORDS,), ({"[PAD]": 0, "the": 1}, [(2, "<x>")]))


def test_renamed_added_tokens_are_reported_but_not_refused(tmp_path: Path) -> None:
    found = notes(tmp_path, (WORDS, [(3, "<reserved_0>")]), (WORDS, [(3, "<tool>")]))
    assert found == ["'tuned' has different names for 1 added tokens (3: '<reserved_0>' / '<tool>')."]


def test_an_added_token_that_is_another_one_is_refused_where_both_have_its_row(tmp_path: Path) -> None:
    first, other = (
        find_vocabulary(write(tmp_path / name, WORDS, [(3, token)]))
        for name, token in (("base", "<|im_start|>"), ("tuned", "<tool>"))
    )
    for rows in (None, 4):
        with pytest.raises(IncompatibleError, match=r"1 ids belong .*3 is '<\|im_start\|>' and '<tool>'"):
            compare(first, other, rows=rows)
    assert compare(first, other, rows=3) == [
        "'tuned' has different names for 1 added tokens (3: '<|im_start|>' / '<tool>')."
    ]


def test_a_padding_token_may_be_spelt_in_another_way(tmp_path: Path) -> None:
    assert notes(tmp_path, (WORDS, [(3, "[PAD]")]), (WORDS, [(3, "<pad>")])) == [
        "'tuned' has different names for 1 added tokens (3: '[PAD]' / '<pad>')."
    ]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("added_tokens.json", {"<tool>": 3}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"3": {"content": "<tool>"}}}),
    ],
)
def test_added_tokens_of_other_files_count(tmp_path: Path, file: str, content: object) -> None:
    found = []
    for name, token in (("base", "<call>"), ("tuned", "<tool>")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.model").write_bytes(b"the same")
        (tmp_path / name / file).write_text(json.dumps(content).replace("<tool>", token))
        found.append(find_vocabulary(LocalFiles(tmp_path / name, name=name)))
    assert compare(found[0], found[0]) == []
    with pytest.raises(IncompatibleError, match=r"1 ids belong to different tokens .3 is '<call>' and '<tool>'"):
        compare(*found)


@pytest.mark.parametrize("file", ["added_tokens.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "text", ["{", '{"added_tokens_decoder": {"x": 1}, "a": "x"}', '{"added_tokens_decoder": {"-1": "x"}, "a": -1}']
)
def test_a_damaged_list_of_added_tokens_is_named(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / "vocab.txt").write_text("the\n")
    (tmp_path / file).write_text(text)
    with pytest.raises(IncompatibleError, match=rf"{file}'.* of 'm' is damaged"):
        find_vocabulary(LocalFiles(tmp_path, name="m"))


def test_another_way_to_split_text_is_noted(tmp_path: Path) -> None:
    found = []
    for name, merges, normalizer in (("base", ["a b"], None), ("tuned", [["b", "a"]], {"type": "Lowercase"})):
        data = {"model": {"vocab": WORDS, "merges": merges}, "normalizer": normalizer}
        found.append(parse_slow(tmp_path / name, "tokenizer.json", data))
    (note,) = compare(*found, tokenizer="base")
    assert note == (
        "'tuned' splits text in another way than 'base' (merges, normalizer differ), so the same text becomes other "
        "tokens. The mix has the tokenizer of 'base'."
    )


@pytest.mark.parametrize("key", ["byte_fallback", "ignore_merges", "max_input_chars_per_word", "unk_token", "scores"])
def test_another_setting_of_a_tokenizer_that_splits_text_is_noted(tmp_path: Path, key: str) -> None:
    settings = ({"byte_fallback": False, "dropout": None, key: value} for value in (1, 2))
    vocabularies = (WORDS, WORDS) if key != "scores" else ([[word, score] for word in WORDS] for score in (1, 2))
    first, other = (
        find_vocabulary(write(tmp_path / name, words, **how))
        for name, words, how in zip(("base", "tuned"), vocabularies, settings, strict=True)
    )
    (note,) = compare(first, other)
    assert f"({key} differ)" in note
    assert compare(first, find_vocabulary(write(tmp_path / "old", WORDS, dropout=None, end_of_word_suffix=""))) == []


def test_merges_are_the_same_in_old_and_new_files(tmp_path: Path) -> None:
    assert notes(tmp_path, (WORDS,), (WORDS,)) == []
    first = write(tmp_path / "old", WORDS, merges=["a b"])
    assert compare(*map(find_vocabulary, (first, write(tmp_path / "new", WORDS, merges=[["a", "b"]])))) == []


def test_slow_tokenizers_are_compared_by_merges(tmp_path: Path) -> None:
    found = []
    for name, merges in (("base", "a b"), ("tuned", "b a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.json").write_text(json.dumps(WORDS))
        (tmp_path / name / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
        found.append(find_vocabulary(LocalFiles(tmp_path / name, name=name)))
    (note,) = compare(*found)
    assert note.startswith("'tuned' splits text in another way than 'base' (merges differ), so the same")


@pytest.mark.parametrize("file", ["whitespacetokenizer_config.json", "phrasetokenizer_config.json"])
def test_words_of_word_embeddings_in_another_order_are_refused(tmp_path: Path, file: str) -> None:
    found = [
        parse_slow(tmp_path / name, file, {"vocab": words})
        for name, words in (("base", ["cat", "dog"]), ("tuned", ["dog", "cat"]))
    ]
    with pytest.raises(IncompatibleError, match=r"different vocabularies, 2 ids .*0 is 'cat' and 'dog'"):
        compare(*found)


def test_tokens_that_only_one_has_are_reported(tmp_path: Path) -> None:
    assert notes(tmp_path, (WORDS,), (WORDS, [(3, "<tool>")])) == [
        "'tuned' has 1 tokens that the tokenizer of 'base' lacks ('<tool>')."
    ]
    (tmp_path / "more").mkdir()
    assert notes(tmp_path / "more", (WORDS, [(3, "<tool>")]), (WORDS,)) == [
        "'tuned' lacks 1 tokens of 'base' ('<tool>'); it never learnt them."
    ]


def test_a_model_without_tokenizer_files_is_reported(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    bare = find_vocabulary(LocalFiles(tmp_path / "bare", name="bare"))
    found = compare(find_vocabulary(write(tmp_path / "base", WORDS)), bare)
    assert found == ["'bare' has no tokenizer files, so its vocabulary could not be compared."]


def test_an_old_vocab_txt_is_compared_with_a_fast_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "vocab.txt").write_text("[PAD]\nthe\ndog\n")
    old = find_vocabulary(LocalFiles(tmp_path / "old", name="old"))
    with pytest.raises(IncompatibleError, match="2 is 'fox' and 'dog'"):
        compare(find_vocabulary(write(tmp_path / "base", WORDS)), old)


def vocabulary(name: str, path: str, text: bytes) -> Vocabulary:
    return Vocabulary(name=name, path=path, text=text)


@pytest.mark.parametrize("path", ["spiece.model", "tokenizer.model"])
def test_vocabulary_files_of_other_formats_are_equal_or_refused(path: str) -> None:
    one, two = vocabulary("a", path, b"IQ== 0"), vocabulary("b", path, b"IQ== 1")
    assert compare(one, vocabulary("b", path, b"IQ== 0")) == []
    with pytest.raises(IncompatibleError, match=rf"their '{path}' differ"):
        compare(one, two)


@pytest.mark.parametrize("file", ["spm.model", "sentencepiece.model", "qwen.tiktoken", "tekken.json", "dict.txt"])
def test_a_vocabulary_in_a_file_of_any_other_name_is_compared(tmp_path: Path, file: str) -> None:
    found = []
    for name, text in (("base", '{"a": {}}'), ("tuned", '{"b": {}}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer_config.json").write_text("{}")
        (tmp_path / name / file).write_text(text)
        found.append(find_vocabulary(LocalFiles(tmp_path / name, name=name)))
    with pytest.raises(IncompatibleError, match="different vocabularies"):
        compare(*found)


@pytest.mark.parametrize("file", ["source.spm", "bpe.codes", "vocab-tgt.json"])
def test_another_file_that_splits_text_is_noted_beside_the_same_words(tmp_path: Path, file: str) -> None:
    found = []
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.json").write_text(json.dumps(WORDS))
        (tmp_path / name / file).write_text(name)
        found.append(find_vocabulary(LocalFiles(tmp_path / name, name=name)))
    (note,) = compare(*found)
    assert note.startswith(f"'tuned' splits text in another way than 'base' ({file} differ), so the same")


PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("▁the", -1.0, 1), ("▁fox", -2.0, 1), ("s", -3.0, 1)]


def test_pieces_of_sentencepiece_are_compared() -> None:
    base = vocabulary("base", "spiece.model", model(PIECES))
    assert compare(base, vocabulary("tuned", "tokenizer.model", model(PIECES) + b"\x2a\x00")) == []
    longer = vocabulary("tuned", "spiece.model", model([*PIECES, ("▁cat", 0.0, 4)]))
    (note,) = compare(base, longer)
    assert note == "'tuned' has 1 tokens that the tokenizer of 'base' lacks ('▁cat')."
    other = vocabulary("tuned", "spiece.model", model([*PIECES[:4], ("▁dog", -2.0, 1), PIECES[5]]))
    with pytest.raises(IncompatibleError, match=r"1 ids belong to different tokens \(4 is '▁fox' and '▁dog'\)"):
        compare(base, other)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("scores", model([*PIECES[:5], ("s", -9.0, 1)])),
        ("normalizer", model(PIECES, normalizer=b"\x18\x00")),
    ],
)
def test_pieces_that_are_put_together_in_another_way_are_noted(what: str, text: bytes) -> None:
    (note,) = compare(vocabulary("a", "spiece.model", model(PIECES)), vocabulary("b", "spiece.model", text))
    assert note.startswith(f"'b' splits text in another way than 'a' ({what} differ)")


def listed(tokens: list[str], added: dict[str, int]) -> bytes:
    entries = [{"id": number, "content": token} for token, number in added.items()]
    return json.dumps({"model": {"vocab": [[t, 0.0] for t in tokens]}, "added_tokens": entries}).encode()


FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>", "▁the", "▁fox", "s"]
ADDED = {token: number for number, token in enumerate(FAIRSEQ[:4])}


@pytest.mark.parametrize("turned", [False, True])
def test_a_sentencepiece_model_is_compared_with_a_fast_tokenizer_whose_ids_are_moved(turned: bool) -> None:
    """As XLM-R's are, by one."""

    def notes_on(tokens: list[str]) -> list[str]:
        pair = [
            vocabulary("slow", "sentencepiece.bpe.model", model(PIECES)),
            vocabulary("fast", "tokenizer.json", listed(tokens, ADDED)),
        ]
        return compare(*(reversed(pair) if turned else pair))

    assert notes_on(FAIRSEQ) == []
    (note,) = notes_on([*FAIRSEQ, "▁cat", "▁dog"])
    assert note.startswith("2 tokens are in the vocabulary of only one of '")
    with pytest.raises(IncompatibleError, match=r"1 tokens have other ids \('s' is 5 and 5\)"):
        notes_on([*FAIRSEQ[:4], "▁the", "s", "▁fox2", "▁cat"])
    with pytest.raises(IncompatibleError, match="they have 0 tokens in common"):
        notes_on([*FAIRSEQ[:4], "the", "fox", "##s"])


@pytest.mark.parametrize(
    "text", ["{", '{"model": []}', '{"model": {"vocab": {"a": "x"}}}', '{"model": {"vocab": {"a": -1}}}']
)
def test_a_damaged_tokenizer_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(IncompatibleError, match=r"'tokenizer\.json' of 'm' is damaged"):
        _ = find_vocabulary(LocalFiles(tmp_path, name="m")).tokens


def test_files_of_one_name_with_the_same_bytes_are_not_parsed(tmp_path: Path) -> None:
    first, second = (Vocabulary(name=name, path="tokenizer.json", text=b"{") for name in "ab")
    assert compare(first, second) == []
    (tmp_path / "one").mkdir()
    bare = find_vocabulary(LocalFiles(tmp_path / "one"))
    assert compare(bare, bare) == []


def test_a_vocabulary_for_each_of_several_languages_is_compared_as_a_whole(tmp_path: Path) -> None:
    found = [parse_slow(tmp_path / name, "vocab.json", {"tur": {"a": n}}) for name, n in (("one", 0), ("two", 1))]
    assert compare(found[0], found[0]) == []
    with pytest.raises(IncompatibleError, match=r"their 'vocab.json' differ"):
        compare(*found)


def test_only_a_newline_ends_a_token(tmp_path: Path) -> None:
    listed = parse_slow(tmp_path / "one", "vocab.txt", "[PAD]\n\u2028\r\nfox\n")
    assert listed.tokens == ({0: "[PAD]", 1: "\u2028", 2: "fox"}, {})


def test_ids_beyond_the_embeddings_are_told_where_all_have_the_same_file(tmp_path: Path) -> None:
    own = find_vocabulary(write(tmp_path / "own", WORDS, [(3, "<x>"), (4, "<y>")]))
    assert require_rows(own, [own, own], 5) == []
    (note,) = require_rows(own, [own, own], 3)
    what = "2 tokens (such as 3: '<x>'), but the embeddings have 3 rows"
    assert note == f"The tokenizer of the mix has ids for {what}, as in its ingredients."


def test_an_adapter_with_tokens_that_neither_it_nor_its_base_has_rows_for_is_refused(tmp_path: Path) -> None:
    own = find_vocabulary(write(tmp_path / "own", WORDS, [(3, "<x>")]))
    base = find_vocabulary(write(tmp_path / "base", WORDS))
    assert require_rows(own, [own], 4, base=base) == []
    assert require_rows(base, [base], 3, base=base) == []
    with pytest.raises(
        IncompatibleError, match=r"rows\.\n.+\n.+`save_embedding_layers=True`\), or without a tokenizer"
    ):
        require_rows(own, [own], 3, base=base)
    with pytest.raises(IncompatibleError, match="that fits under `tokenizer`, such as 'base'"):
        require_rows(own, [own, base], 3, base=base)


def parse_slow(folder: Path, name: str, content: object) -> Vocabulary:
    folder.mkdir()
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_bytes(text.encode())
    return find_vocabulary(LocalFiles(folder, name=folder.name))
