import re

import pytest

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.examples import check_examples

PAIRS = [{"input": "a", "output": "b", "id": 7}, {"input": "ç", "output": "d", "id": 8}]
RANKED = [{"query": "q", "pos": ["p"], "neg": ["n", "m"]}, {"query": "r", "pos": ["s"], "neg": ["t"]}]


def test_other_keys_are_dropped():
    assert list(check_examples(PAIRS, "decoder").rows) == [
        {"input": "a", "output": "b"},
        {"input": "ç", "output": "d"},
    ]


def test_a_single_text_counts_as_a_list_of_one():
    row = check_examples([{"query": "q", "pos": "p", "neg": "n"}], "encoder").rows[0]
    assert row == {"query": "q", "pos": ("p",), "neg": ("n",)}


def test_columns_are_mapped():
    rows = [{"question": "a", "answer": "b", "input": "not this"}]
    mapped = check_examples(rows, "decoder", columns={"input": "question", "output": "answer"})
    assert mapped.rows[0] == {"input": "a", "output": "b"}


def test_unknown_columns_are_refused():
    with pytest.raises(ScoringError, match=r"`columns` maps 'inputs'.*Did you mean 'input'"):
        check_examples(PAIRS, "decoder", columns={"inputs": "x"})


def test_the_digest_is_that_of_the_used_texts_in_their_order():
    digest = check_examples(RANKED, "encoder").digest
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert check_examples([row | {"more": 1} for row in RANKED], "reranker").digest == digest
    assert check_examples(RANKED[::-1], "encoder").digest != digest
    assert check_examples([RANKED[0] | {"neg": ["nm"]}, RANKED[1]], "encoder").digest != digest


@pytest.mark.parametrize(
    ("rows", "kind", "message", "index"),
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
        ([{"input": "a", "output": "b" * 1_048_577}], "decoder", "has 1,048,577 characters; no more than 1,048,576", 0),
        ([{"query": "q", "pos": [], "neg": ["n"]}], "encoder", "'pos' of example 0 is empty", 0),
        ([{"query": "q", "pos": ["p"], "neg": ["n", " "]}], "encoder", "'neg[1]' of example 0 is empty", 0),
        ([{"query": "q", "pos": ["p"], "neg": [1]}], "encoder", "'neg[0]' of example 0 is of type int", 0),
        ([{"query": "q", "pos": {"p": 1}, "neg": []}], "encoder", "of type dict, not a text or a list of texts", 0),
        ([{"query": " ", "pos": ["p"], "neg": []}], "encoder", "'query' of example 0 is empty", 0),
        ([{"query": "q", "pos": ["p"]}], "reranker", "Example 0 has no negatives", 0),
        ([{"query": "q", "pos": ["p"], "neg": []}], "reranker", "Example 0 has no negatives.", 0),
        ([RANKED[0], {"query": "q", "pos": ["p"], "neg": ["p"]}], "reranker", "Example 1 has no negatives.", 1),
    ],
)
def test_bad_examples_name_the_example_and_the_key(rows, kind, message, index):
    with pytest.raises(ScoringError, match=re.escape(message)) as caught:
        check_examples(rows, kind)
    assert caught.value.example == index


def test_an_empty_input_and_no_negatives_are_fine():
    assert check_examples([{"input": "", "output": "b"}], "decoder").rows[0]["input"] == ""
    others = [{"query": text, "pos": [text], "neg": []} for text in "qr"]
    assert check_examples(others, "encoder").rows[0]["neg"] == ()
