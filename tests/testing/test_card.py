"""What the Hub thinks of a README's metadata."""

from __future__ import annotations

import pytest

from cocktail_hub.testing.card import problems_in, read_metadata, tags_of


def _card(metadata: str) -> str:
    return f"---\n{metadata}\n---\n# Title\n"


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ("license: [", "Invalid YAML"),
        ("- a list", "must be a mapping"),
        ("license: MIT License", "\"license\" must be one of those at .*, got 'MIT License'"),
        ("license: 3", '"license" must be a string or an array of strings'),
        ("tags: merge", '"tags" must be an array of strings'),
        ("model-index: x", '"model-index" must be an array'),
        ("tags: [1]", '"tags" must be an array of strings'),
        ("library_name: [x]", '"library_name" must be a string'),
        ("base_model: a/b/c", "\"base_model\" with value 'a/b/c' is not valid"),
        ("base_model: ./local", "\"base_model\" with value './local' is not valid"),
        ("base_model_relation: mix", '"base_model_relation" must be one of'),
    ],
)
def test_what_is_wrong_is_refused(metadata: str, problem: str) -> None:
    errors, _ = problems_in(_card(metadata))
    assert len(errors) >= 1
    with pytest.raises(ValueError, match=problem):
        raise ValueError(errors[0])


def test_what_is_right_is_accepted() -> None:
    metadata = "license: [mit, llama3.1]\nbase_model: [a/b, c]\nbase_model_relation: merge\ntags: [x]\ndatasets: []"
    assert problems_in(_card(metadata)) == ([], [])
    assert problems_in(_card(metadata).replace("\n", "\r\n")) == ([], [])
    assert problems_in(_card("datasets: glue\nmetrics: acc")) == ([], [])


def test_no_metadata_is_only_frowned_at() -> None:
    assert problems_in("# Title\n") == ([], ["empty or missing yaml metadata in repo card"])
    assert read_metadata("# Title\n") is None
    assert read_metadata("---\n---\n# Title\n") == {}


def test_metadata_becomes_tags() -> None:
    metadata = read_metadata(_card("tags: [merge]\nlicense: mit\nbase_model: [a/b, c/d]\nlibrary_name: transformers"))
    assert tags_of(metadata) == [
        "merge",
        "transformers",
        "license:mit",
        "base_model:a/b",
        "base_model:c/d",
        "base_model:merge:a/b",
        "base_model:merge:c/d",
    ]
    assert tags_of({"base_model": "a/b"}) == ["base_model:a/b", "base_model:finetune:a/b"]
