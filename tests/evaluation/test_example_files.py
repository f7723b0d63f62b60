import json
import os
import re
import sys

import pytest

from cocktail_hub.errors import MissingExtraError, ScoringError, SourceError
from cocktail_hub.evaluation import example_files
from cocktail_hub.evaluation.example_files import examples_given, locate_examples, read_rows
from cocktail_hub.hub import Hub
from cocktail_hub.recipe import Recipe
from cocktail_hub.resolve.source import load_recipe_source

PAIRS = [{"input": "a", "output": "b", "id": 7}, {"input": "ç\u2028\n", "output": 'd, "e"', "id": 8}]
DEEP = "[" * 100_000 + "]" * 100_000
RANKED = [{"query": "q", "pos": ["p"], "neg": ["n", "m"]}, {"query": "r", "pos": ["s"], "neg": ["t"]}]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def located(examples):
    recipe = Recipe.from_dict(
        {"ingredients": [{"model": "acme/a"}, {"model": "acme/b"}], "weighting": {"examples": examples}}
    )
    return locate_examples(recipe.weighting, load_recipe_source(recipe, Hub()), Hub())


def test_inline_examples_are_named_by_their_content():
    digest = located(PAIRS).digest
    assert digest == located([dict(reversed(row.items())) for row in PAIRS]).digest
    assert digest != located(PAIRS[:1]).digest
    assert located(PAIRS).rows() == PAIRS


def test_a_file_is_named_by_its_bytes(tmp_path):
    path = write(tmp_path / "mine.jsonl", json.dumps(PAIRS[0]))
    found = located(str(path))
    assert found.rows() == PAIRS[:1]
    assert (found.source, found.to_dict()) == ("mine.jsonl", {"source": "mine.jsonl"})
    digest = found.digest
    write(path, json.dumps(PAIRS[1]))
    assert located(str(path)).digest != digest


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
    for name, text in texts.items():
        rows = read_rows(write(tmp_path / name, text))
        assert [{"input": row["input"], "output": row["output"], "id": int(row["id"])} for row in rows] == PAIRS


def test_lists_in_csv_cells_are_json(tmp_path):
    path = write(tmp_path / "a.csv", 'query,pos,neg\nq,p,"[""n"", ""m""]"\n')
    assert read_rows(path) == [{"query": "q", "pos": "p", "neg": ["n", "m"]}]


def test_a_cell_that_only_looks_like_a_list_is_text(tmp_path):
    path = write(tmp_path / "a.csv", "query,pos,neg\nq,[sic],[1]\n")
    assert read_rows(path) == [{"query": "q", "pos": "[sic]", "neg": "[1]"}]


def test_parquet_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(RANKED), tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet") == RANKED
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        read_rows(write(tmp_path / "b.parquet", "no parquet"))


def test_a_file_of_several_tasks_gives_the_one_that_is_named(tmp_path):
    path = write(tmp_path / "llm_examples.json", json.dumps({"ag_news": PAIRS, "squad": PAIRS[:1]}))
    assert read_rows(path, "squad") == PAIRS[:1]
    found = examples_given(path, Hub(), name="ag_news")
    assert (found.rows(), found.to_dict()) == (PAIRS, {"source": "llm_examples.json", "name": "ag_news"})
    recipe = {"ingredients": ["acme/a", "acme/b"], "weighting": {"examples": str(path), "name": "squad"}}
    source = load_recipe_source(recipe, Hub())
    assert locate_examples(source.recipe.weighting, source, Hub()).rows() == PAIRS[:1]
    with pytest.raises(ScoringError, match=r"those of 2 tasks.\n.*\n.*`weighting.name`.* Accepted: ag_news, squad"):
        read_rows(path)
    with pytest.raises(ScoringError, match=r"none of them is 'ag_new'.\n.*\n.*Did you mean 'ag_news'"):
        read_rows(path, "ag_new")
    assert read_rows(write(tmp_path / "list.json", json.dumps(PAIRS)), "squad") == PAIRS


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=re.escape('pip install ".[parquet]"')):
        read_rows(write(tmp_path / "a.parquet", ""))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "x", "have the suffix '.txt'"),
        ("a.json", '{"mnli": [1]}', "a JSON dict with the keys 'mnli', not a list"),
        ("a.json", "[1,", "is not valid JSON"),
        ("a.jsonl", '{"input": 1}\n{"in', "Line 2 of"),
        ("a.jsonl", "[1]", "is not a JSON object: [1]"),
        ("a.csv", "input,output\na\n", "Line 2 of"),
        ("a.csv", "input,output\na,b,c\n", "another number of cells than the header"),
        ("a.csv", 'input,output\n"a,b', "cannot be read"),
        ("a.json", DEEP, "is nested too deeply"),
        ("a.jsonl", f'{{"input": {DEEP}}}', "Line 1 of"),
        ("a.jsonl", f'{{"input": {"9" * 5000}}}', "not valid JSON: Exceeds the limit"),
    ],
)
def test_bad_files_say_where(tmp_path, name, text, message):
    with pytest.raises(ScoringError, match=re.escape(message)):
        read_rows(write(tmp_path / name, text))


def test_a_cell_of_brackets_is_text(tmp_path):
    assert read_rows(write(tmp_path / "a.csv", f"input\n{DEEP[:1000]}]\n")) == [{"input": f"{DEEP[:1000]}]"}]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", "x" * 1001, "have 1,001 bytes; no more than 1,000 are read"),
        ("a.jsonl", '{"input": [[],[],[],[],[]]}', "have 11 values; no more than 10 are read"),
        ("a.jsonl", "\n" * 11, "have 11 values"),
        ("a.csv", "a,b,c\n" * 4, "have 12 values"),
        ("a.tsv", "a\tb\tc\n" * 4, "have 12 values"),
    ],
)
def test_more_than_a_few_examples_are_refused_before_they_are_parsed(tmp_path, monkeypatch, name, text, words):
    monkeypatch.setattr(example_files, "LARGEST_FILE", 1000)
    monkeypatch.setattr(example_files, "MOST_VALUES", 10)
    with pytest.raises(SourceError, match=words):
        read_rows(write(tmp_path / name, text))


def test_parquet_that_expands_is_refused(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr(example_files, "LARGEST_FILE", 10_000)
    monkeypatch.setattr(example_files, "MOST_VALUES", 1000)
    repeated = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 900), pyarrow.array(["x" * 1000]))
    for column, words in (
        (pyarrow.array(["x"] * 1001), "have 1,001 values; no more than 1,000"),
        (pyarrow.array(["\0" * 20_000]), "bytes once unpacked; no more than 10,000"),
        (repeated, "characters and more once unpacked; no more than 10,000"),
        (pyarrow.array([1], pyarrow.timestamp("ns")), "cannot be read as Parquet"),
    ):
        parquet.write_table(pyarrow.table({"input": column}), tmp_path / "a.parquet", compression="zstd")
        with pytest.raises(SourceError, match=words):
            read_rows(tmp_path / "a.parquet")
    monkeypatch.setattr(example_files, "_COLUMNS", 2)
    parquet.write_table(pyarrow.table({name: ["a"] for name in "abc"}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="have 3 columns; no more than 2 are read"):
        read_rows(tmp_path / "a.parquet")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_what_is_no_ordinary_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to("/dev/zero")
    for name in ("a.jsonl", "b.jsonl"):
        with pytest.raises(SourceError, match="no ordinary file"):
            read_rows(tmp_path / name)


def test_a_file_that_is_not_utf8_is_a_source_error(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"input": "\xff"}')
    with pytest.raises(SourceError, match="not UTF-8 text: invalid start byte at byte 11"):
        read_rows(tmp_path / "a.jsonl")
