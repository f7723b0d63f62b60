import json
import re
import sys

import pytest

from cocktail_hub.errors import MissingExtraError, ScoringError, SourceError
from cocktail_hub.evaluation.examples import load_examples

PAIRS = [{"input": "a", "output": "b", "id": 7}, {"input": "ç\u2028\n", "output": 'd, "e"', "id": 8}]
RANKED = [{"query": "q", "pos": ["p"], "neg": ["n", "m"]}, {"query": "r", "pos": ["s"], "neg": ["t"]}]
PLAIN = [{"input": "a", "output": "b"}, {"input": "ç\u2028\n", "output": 'd, "e"'}]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_list_is_taken_as_it_is_and_other_keys_are_dropped():
    assert list(load_examples(PAIRS, "decoder").rows) == PLAIN


@pytest.mark.parametrize("task", ["text2text-generation", "encoder-decoder", "text-generation"])
def test_tasks_have_the_hub_s_and_the_original_s_names(task):
    assert len(load_examples(PAIRS, task)) == 2


def test_every_text_format_gives_the_same_examples(tmp_path):
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in PAIRS)
    texts = {
        "a.jsonl": lines + "\n\n",
        "a.ndjson": "\ufeff" + lines,
        "a.json": json.dumps(PAIRS),
        "lines.json": lines,
        "a.csv": 'id,input,output\n7,a,b\n8,"ç\u2028\n","d, ""e"""\n',
        "a.tsv": 'id\tinput\toutput\n7\ta\tb\n8\t"ç\u2028\n"\t"d, ""e"""\n',
    }
    loaded = [load_examples(write(tmp_path / name, text), "decoder") for name, text in texts.items()]
    assert all(list(one.rows) == PLAIN for one in loaded)
    assert {one.digest for one in loaded} == {load_examples(PAIRS, "decoder").digest}


def test_lists_in_csv_cells_are_json(tmp_path):
    path = write(tmp_path / "a.csv", 'query,pos,neg\nq,p,"[""n"", ""m""]"\nr,s,t\n')
    assert load_examples(str(path), "encoder") == load_examples(RANKED, "encoder")


def test_a_cell_that_only_looks_like_a_list_is_text(tmp_path):
    path = write(tmp_path / "a.csv", "query,pos,neg\nq,[sic],[1]\n")
    assert load_examples(path, "encoder").rows[0] == {"query": "q", "pos": ("[sic]",), "neg": ("[1]",)}


def test_parquet_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(RANKED), tmp_path / "a.parquet")
    assert load_examples(tmp_path / "a.parquet", "reranker").rows == load_examples(RANKED, "reranker").rows
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        load_examples(write(tmp_path / "b.parquet", "no parquet"), "reranker")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=re.escape('pip install "cocktail-hub[parquet]"')):
        load_examples(write(tmp_path / "a.parquet", ""), "decoder")


def test_a_single_text_counts_as_a_list_of_one():
    row = load_examples([{"query": "q", "pos": "p", "neg": "n"}], "encoder").rows[0]
    assert row == {"query": "q", "pos": ("p",), "neg": ("n",)}


def test_columns_are_mapped():
    rows = [{"question": "a", "answer": "b", "input": "not this"}]
    mapped = load_examples(rows, "decoder", columns={"input": "question", "output": "answer"})
    assert mapped.rows[0] == {"input": "a", "output": "b"}


def test_the_digest_is_that_of_what_is_used_in_its_order():
    digest = load_examples(RANKED, "encoder").digest
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert load_examples([row | {"more": 1} for row in RANKED], "encoder").digest == digest
    assert load_examples(RANKED[::-1], "encoder").digest != digest
    assert load_examples([RANKED[0] | {"neg": ["nm"]}, RANKED[1]], "encoder").digest != digest


def test_a_source_that_is_no_file_goes_to_resolve(tmp_path):
    path = write(tmp_path / "train.jsonl", json.dumps(PAIRS[0]))
    asked = []
    loaded = load_examples("org/data", "decoder", resolve=lambda name: asked.append(name) or path)
    assert asked == ["org/data"]
    assert len(loaded) == 1


def test_a_file_that_is_not_there_is_a_source_error():
    with pytest.raises(SourceError, match=re.escape("The examples 'no/such.jsonl' are no file here")):
        load_examples("no/such.jsonl", "decoder")


@pytest.mark.parametrize(
    ("rows", "task", "message", "index"),
    [
        ([], "decoder", "There are no examples", None),
        ([{"input": "a", "ouput": "b"}], "decoder", "Example 0 has no key 'output'. Did you mean 'ouput'?", 0),
        ([PAIRS[0], {"input": "a", "x": "b"}], "decoder", "Example 1 has no key 'output'. It has: input, x.", 1),
        ([PAIRS[0], {"y": "a"}], "decoder", "Example 1 has no key 'input'. It has: y.", 1),
        ([{}], "decoder", "Example 0 has no key 'input'. It is empty.", 0),
        (["text"], "decoder", "Example 0 is of type str, not a mapping: 'text'", 0),
        ([{"input": "a", "output": ""}], "decoder", "'output' of example 0 is empty", 0),
        ([{"input": "a", "output": " \n"}], "decoder", "'output' of example 0 is empty", 0),
        ([{"input": "a", "output": 3}], "decoder", "'output' of example 0 is of type int, not a text: 3", 0),
        ([{"input": None, "output": "b"}], "decoder", "'input' of example 0 is of type NoneType, not a text", 0),
        ([{"input": "a", "output": "\ud83d"}], "decoder", "half of a surrogate pair at character 0", 0),
        ([{"query": "q", "pos": [], "neg": ["n"]}], "encoder", "'pos' of example 0 is empty", 0),
        ([{"query": "q", "pos": ["p"], "neg": ["n", " "]}], "encoder", "'neg[1]' of example 0 is empty", 0),
        ([{"query": "q", "pos": ["p"], "neg": [1]}], "encoder", "'neg[0]' of example 0 is of type int", 0),
        ([{"query": "q", "pos": {"p": 1}, "neg": []}], "encoder", "of type dict, not a text or a list of texts", 0),
        ([{"query": " ", "pos": ["p"], "neg": []}], "encoder", "'query' of example 0 is empty", 0),
        ([{"query": "q", "pos": ["p"]}], "reranker", "Example 0 has no key 'neg'", 0),
        (PAIRS, "text-classification", "'text-classification' cannot be scored on examples", None),
        (PAIRS, "text-genration", "Did you mean 'text-generation'?", None),
    ],
)
def test_bad_examples_name_the_example_and_the_key(rows, task, message, index):
    with pytest.raises(ScoringError, match=re.escape(message)) as caught:
        load_examples(rows, task)
    assert caught.value.example == index


def test_an_empty_input_and_no_negatives_are_fine():
    assert load_examples([{"input": "", "output": "b"}], "decoder").rows[0]["input"] == ""
    assert load_examples([{"query": "q", "pos": ["p"], "neg": []}], "encoder").rows[0]["neg"] == ()


def test_unknown_columns_are_refused():
    with pytest.raises(ScoringError, match=r"`columns` maps 'inputs'.*Did you mean 'input'"):
        load_examples(PAIRS, "decoder", columns={"inputs": "x"})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "x", "have the suffix '.txt'"),
        ("a.json", '{"mnli": [1]}', "a JSON dict with the keys 'mnli', not a list"),
        ("a.json", "[1,", "are not valid JSON"),
        ("a.jsonl", '{"input": 1}\n{"in', "Line 2 of"),
        ("a.jsonl", "[1]", "is no JSON object: [1]"),
        ("a.csv", "input,output\na\n", "Line 2 of"),
        ("a.csv", "input,output\na,b,c\n", "another number of cells than the header"),
        ("a.csv", 'input,output\n"a,b', "cannot be read"),
    ],
)
def test_bad_files_say_where(tmp_path, name, text, message):
    with pytest.raises(ScoringError, match=re.escape(message)):
        load_examples(write(tmp_path / name, text), "decoder")


def test_a_file_that_is_not_utf8_is_a_source_error(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"input": "\xff"}')
    with pytest.raises(SourceError, match="not UTF-8 text: invalid start byte at byte 11"):
        load_examples(tmp_path / "a.jsonl", "decoder")
