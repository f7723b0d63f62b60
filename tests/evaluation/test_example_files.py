import json
import re
import sys

import pytest

from cocktail_hub.errors import MissingExtraError, ScoringError, SourceError
from cocktail_hub.evaluation.example_files import examples_given, locate_examples, read_rows
from cocktail_hub.hub import Hub
from cocktail_hub.recipe import Recipe
from cocktail_hub.resolve.source import load_recipe_source

PAIRS = [{"input": "a", "output": "b", "id": 7}, {"input": "ç\u2028\n", "output": 'd, "e"', "id": 8}]
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
        ("a.json", "[1,", "are not valid JSON"),
        ("a.jsonl", '{"input": 1}\n{"in', "Line 2 of"),
        ("a.jsonl", "[1]", "is not a JSON object: [1]"),
        ("a.csv", "input,output\na\n", "Line 2 of"),
        ("a.csv", "input,output\na,b,c\n", "another number of cells than the header"),
        ("a.csv", 'input,output\n"a,b', "cannot be read"),
    ],
)
def test_bad_files_say_where(tmp_path, name, text, message):
    with pytest.raises(ScoringError, match=re.escape(message)):
        read_rows(write(tmp_path / name, text))


def test_a_file_that_is_not_utf8_is_a_source_error(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"input": "\xff"}')
    with pytest.raises(SourceError, match="not UTF-8 text: invalid start byte at byte 11"):
        read_rows(tmp_path / "a.jsonl")
