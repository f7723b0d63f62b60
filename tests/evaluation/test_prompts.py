import sys

import pytest
import scoring_models
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.prompts import (
    Prompt,
    Text,
    check_scorable,
    cut,
    joined,
    templated,
    tokenized,
)

BPE = scoring_models.byte_bpe()
BOS = scoring_models.byte_bpe(bos=True)
CHAT = scoring_models.byte_bpe(bos=True, template=scoring_models.TEMPLATE)
SLOW = ByT5Tokenizer()


@pytest.mark.parametrize(
    ("source", "target", "text"),
    [
        ("2 + 2 =", "4", "2 + 2 = 4"),
        ("Answer: ", "4", "Answer: 4"),
        ("Answer:\n", "4", "Answer:\n4"),
        ("Answer:", "\n4", "Answer:\n4"),
        ("", "4", "4"),
    ],
)
def test_input_and_output_are_joined_by_the_white_space_they_bring_or_by_one_space(source, target, text):
    assert joined(source, target) == Text(text, len(source))


@pytest.mark.parametrize("source", ["Answer:", "Answer: ", "Answer:\n", ""])
def test_lm_cocktail_always_adds_a_space(source):
    assert joined(source, "4", lm_cocktail=True) == Text(f"{source} 4", len(source))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "takes over 0.1 s"),
        ("{{ 1 / 0 }}", "refuses it: division by zero"),
        ("{{ messages[5].content.x }}", "refuses it"),
        ("{{ messages + 1 }}", "refuses it"),
    ],
)
def test_a_chat_template_that_never_ends_or_fails_is_refused(monkeypatch, template, words):
    monkeypatch.setattr("cocktail_hub.evaluation.prompts.PATIENCE", 0.1)
    with pytest.raises(ValueError, match=words):
        templated(scoring_models.byte_bpe(template=template), "a", "b")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can take the limit back")
@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 10**10 }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ 'x'.ljust(10000000000) }}",
        "{{ [1]|batch(10000000000, 'x')|list }}",
        "{% set n = namespace(s='x') %}{% for i in range(40) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    ],
)
def test_a_chat_template_that_takes_all_memory_is_refused(template):
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(
        ValueError, match=r"^the chat template takes over 268,435,456 bytes; set `chat_template: false`$"
    ):
        templated(scoring_models.byte_bpe(template=template), "a", "b")
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_the_output_begins_where_the_offsets_say():
    prompt = tokenized(BPE, joined("The capital of France is", "Paris"))
    assert BPE.decode(prompt.ids[: prompt.start]) == "The capital of France is"
    assert BPE.decode(prompt.ids[prompt.start :]) == " Paris</s>"


def test_a_token_that_holds_the_last_space_of_the_input_counts_as_output():
    """Tokenized alone, `Answer: ` ends with a token for the space, which does not exist in the whole text."""
    alone = BPE("Answer: ")["input_ids"]
    prompt = tokenized(BPE, joined("Answer: ", "yes"))
    assert BPE.decode(prompt.ids[prompt.start :]) == " yes</s>"
    assert prompt.start == len(alone) - 1


def test_bos_is_no_output():
    prompt = tokenized(BOS, joined("", "Paris"))
    assert prompt.ids[0] == BOS.bos_token_id
    assert prompt.start == prompt.first == 1


def test_without_bos_the_first_token_of_a_text_without_input_cannot_be_predicted():
    prompt = tokenized(BPE, joined("", "Paris is"))
    assert (prompt.start, prompt.first) == (0, 1)


def test_eos_ends_the_text_once():
    assert tokenized(BPE, joined("a", "b")).ids.count(BPE.eos_token_id) == 1
    assert tokenized(BPE, joined("a", "b</s>")).ids.count(BPE.eos_token_id) == 1


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=12), st.text(min_size=1, max_size=12).filter(str.strip))
def test_every_output_token_holds_something_of_the_output_and_no_input_token_does(source, target):
    text = joined(source, target)
    prompt = tokenized(BPE, text)
    offsets = BPE(text.text, return_offsets_mapping=True)["offset_mapping"]
    assert all(end <= len(source) for _, end in offsets[: prompt.start])
    assert all(end > len(source) for _, end in offsets[prompt.start :])


@settings(max_examples=60, deadline=None)
@given(st.text("ab é日\n", max_size=8), st.text("ab é日\n", min_size=1, max_size=8).filter(str.strip))
def test_a_tokenizer_without_offsets_finds_the_same_boundary(source, target):
    """ByT5 has a token per byte, so the boundary is known: it is the number of bytes of the input."""
    text = joined(source, target)
    prompt = tokenized(SLOW, text)
    assert prompt.start == len(source.encode())
    assert len(prompt.ids) == len(text.text.encode()) + 1
    assert prompt.ids[-1] == SLOW.eos_token_id


class Slow:
    """A tokenizer as it was before offsets."""

    is_fast = False

    def __init__(self, fast):
        self.fast, self.eos_token_id, self.all_special_ids = fast, fast.eos_token_id, fast.all_special_ids

    def __call__(self, text, *, add_special_tokens, verbose, return_offsets_mapping=False):
        assert not return_offsets_mapping
        return {"input_ids": self.fast(text, add_special_tokens=add_special_tokens)["input_ids"]}

    def decode(self, ids, **kwargs):
        return self.fast.decode(ids, **kwargs)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([BPE, BOS]), st.text("Aan swer: é日\n", max_size=9), st.text("yes n: é日\n", min_size=1, max_size=6)
)
def test_without_offsets_the_boundary_is_where_offsets_say(fast, source, target):
    """Also where a token spans it, as ` yes` does behind `Answer: `."""
    text = joined(source, target)
    assert tokenized(Slow(fast), text) == tokenized(fast, text)


def test_without_offsets_a_token_that_spans_the_boundary_counts_as_output():
    assert tokenized(Slow(BPE), joined("Answer: ", "yes")) == tokenized(BPE, joined("Answer: ", "yes"))


def test_without_offsets_the_boundary_of_a_chat_is_found():
    text = templated(CHAT, "what is it?", "user")
    assert tokenized(Slow(CHAT), text) == tokenized(CHAT, text)


def test_a_chat_is_one_turn_up_to_the_end_of_the_turn():
    text = templated(CHAT, "what is it?", "user")
    before = "<|user|>\nwhat is it?<|end|>\n<|assistant|>\n"
    assert text == Text(before + "user<|end|>", len(before), special=False, closed=True)
    prompt = tokenized(CHAT, text)
    assert CHAT.decode(prompt.ids[prompt.start :]) == "user<|end|>"
    assert CHAT.eos_token_id not in prompt.ids


def test_a_template_that_strips_outputs_is_followed():
    assert templated(CHAT, "a", " yes\n") == templated(CHAT, "a", "yes")


def test_a_template_without_end_of_turn_gets_eos():
    tokenizer = scoring_models.byte_bpe(template="{% for m in messages %}{{ m['content'] }} {% endfor %}")
    prompt = tokenized(tokenizer, templated(tokenizer, "it is", "yes"))
    assert tokenizer.decode(prompt.ids) == "it is yes</s>"


def test_a_template_that_changes_the_output_is_refused():
    tokenizer = scoring_models.byte_bpe(template="{% for m in messages %}{{ m['content'] | upper }}{% endfor %}")
    with pytest.raises(ValueError, match="the chat template changes the output"):
        templated(tokenizer, "a", "yes")


def test_a_template_that_refuses_the_turn_is_reported():
    tokenizer = scoring_models.byte_bpe(template="{{ raise_exception('a system turn comes first') }}")
    with pytest.raises(ValueError, match="the chat template refuses it: a system turn comes first"):
        templated(tokenizer, "a", "yes")


@pytest.mark.parametrize(
    ("limit", "kept", "start"),
    [
        (8, (1, 2, 3, 4, 5, 10, 11, 12), 5),
        (7, (1, 3, 4, 5, 10, 11, 12), 4),
        (5, (1, 5, 10, 11, 12), 2),
        (4, (1, 5, 10, 11), 2),
        (3, (1, 10, 11), 1),
        (2, (1, 10), 1),
    ],
)
def test_the_input_loses_its_beginning_behind_bos_and_then_the_output_its_end(limit, kept, start):
    prompt = cut(Prompt((1, 2, 3, 4, 5, 10, 11, 12), 5), limit, bos=1)
    assert prompt == Prompt(kept, start, truncated=limit < 8)


def test_without_bos_the_end_of_the_input_stays():
    assert cut(Prompt((1, 2, 3, 10, 11), 3), 3) == Prompt((3, 10, 11), 1, truncated=True)
    assert cut(Prompt((1, 2, 3, 10, 11), 3), 2) == Prompt((3, 10), 1, truncated=True)


@given(st.integers(0, 9), st.integers(1, 9), st.integers(1, 12), st.booleans())
def test_what_is_cut_fits_and_keeps_something_of_both(source, target, limit, bos):
    prompt = cut(Prompt(tuple(range(source + target)), source), limit, bos=0 if bos else None)
    assert len(prompt.ids) == min(limit, source + target)
    assert prompt.truncated == (source + target > limit)
    if limit > 1:
        assert prompt.first < len(prompt.ids) or source + target == 1
        assert prompt.start > 0 or source == 0


def test_lm_cocktail_cuts_the_end():
    assert cut(Prompt((1, 2, 3, 10, 11), 3), 4, lm_cocktail=True) == Prompt((1, 2, 3, 10), 3, truncated=True)
    assert cut(Prompt((1, 2, 3, 10, 11), 3), 2, lm_cocktail=True) == Prompt((1, 2), 2, truncated=True)


def test_a_prompt_without_output_token_is_refused():
    with pytest.raises(ScoringError, match="Example 4 cannot be scored with 'm': none of its output fits into 2"):
        check_scorable(Prompt((1, 2), 2, truncated=True), name="m", example=4, limit=2)
    with pytest.raises(ScoringError, match="its output gives no token"):
        check_scorable(Prompt((1,), 0), name="m", example=0, limit=None)


def test_a_chat_template_does_not_know_the_day(monkeypatch):
    tokenizer = scoring_models.byte_bpe()
    tokenizer.chat_template = (
        "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    assert templated(tokenizer, "2 + 2 =", "4").text.startswith("2024-07-26user")
