"""Tokens of an input and its output, with the place where the output begins."""

from __future__ import annotations

import ctypes
import sys
import threading
from bisect import bisect_left
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import ScoringError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DATE = "{%- macro strftime_now(format) -%}2024-07-26{%- endmacro -%}"
"""Replaces today's date in chat templates: losses must not depend on the day."""
_MARK = "\ue000answer\ue001"
"""Replaces the output in a chat template; its private-use characters occur in no other text."""
PATIENCE = 2.0
"""Seconds that a chat template may take for one example; ordinary ones take milliseconds."""
MEMORY = 1 << 28
"""Bytes of memory that a chat template or a file of examples may take; ordinary ones take some thousand."""
_LIMITING = threading.Lock()
"""Of the process's limit: two threads would put back each other's."""
_PARTIAL = "\ufffd"
"""What decoding writes for a character of which some bytes are missing."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text in which the output begins at a known character."""

    text: str
    """Input and output."""
    boundary: int
    """Index of the first character after the input; the rest counts as output."""
    special: bool = True
    """Whether the tokenizer adds its special tokens; a chat template writes them itself."""
    closed: bool = False
    """Whether the text ends with an end of turn, so that no EOS is appended."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Tokens of an input and its output."""

    ids: tuple[int, ...]
    """Token ids."""
    start: int
    """Index of the first token with a part of the output; the loss is on `ids[start:]`."""
    truncated: bool = False
    """Whether the text was longer than the limit and was cut."""

    @property
    def first(self) -> int:
        """Index of the first token that is predicted; the first token of a text cannot be."""
        return max(self.start, 1)


def joined(source: str, target: str, *, lm_cocktail: bool = False) -> Text:
    """Input and output with a space between them, unless there is white space at the seam already.

    Args:
        source: the input.
        target: the output.
        lm_cocktail: always add a space, as the original does.

    Example:
        >>> joined("2 + 2 =", "4").text, joined("Answer: ", "4").text
        ('2 + 2 = 4', 'Answer: 4')
    """
    separated = not source or source[-1].isspace() or target[0].isspace()
    separator = " " if lm_cocktail or not separated else ""
    return Text(source + separator + target, len(source))


def templated(tokenizer: Any, source: str, target: str) -> Text:
    """A chat of one turn in the tokenizer's template, up to the end of the turn.

    Raises:
        ValueError: the template refuses the turn, or changes the output, so that its beginning is not known.
    """
    # The template is rendered twice. With a mark instead of the output it shows what comes before and after an output,
    # even if the output's words occur elsewhere; with the output it must give the same text around it.
    from jinja2 import TemplateError

    template = _DATE + tokenizer.get_chat_template()

    def render(answer: str) -> str:
        chat = [{"role": "user", "content": source}, {"role": "assistant", "content": answer}]
        try:
            with stopped_after(PATIENCE), limited_memory(MEMORY):
                return str(tokenizer.apply_chat_template(chat, tokenize=False, chat_template=template))
        except TimeoutError as error:
            raise ValueError(f"the chat template takes over {PATIENCE} s; set `chat_template: false`") from error
        except MemoryError as error:
            raise ValueError(f"the chat template takes over {MEMORY:,} bytes; set `chat_template: false`") from error
        except (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError) as error:
            raise ValueError(f"the chat template refuses it: {error}; set `chat_template: false`") from error

    before, mark, after = render(_MARK).rpartition(_MARK)
    full = render(target)
    for answer in (target, target.strip()):  # many templates strip the messages
        if mark and full == before + answer + after:
            end = after.rstrip()
            return Text(before + answer + end, len(before), special=False, closed=bool(end))
    raise ValueError("the chat template changes the output; set `chat_template: false`")


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in this thread once the Python code below has run so long, e.g. the loops of a template."""
    thread = ctypes.c_ulong(threading.get_ident())
    stop = ctypes.pythonapi.PyThreadState_SetAsyncExc
    timer = threading.Timer(seconds, stop, (thread, ctypes.py_object(TimeoutError)))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Raise MemoryError where the code below asks for more bytes, on Linux, which can take such a limit back."""
    if sys.platform != "linux":
        yield
        return
    import resource

    with _LIMITING:
        limit, most = resource.getrlimit(resource.RLIMIT_DATA)
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        lower = 1024 * int(status.partition("VmData:")[2].split()[0]) + more
        lower = lower if limit == resource.RLIM_INFINITY else min(lower, limit)
        resource.setrlimit(resource.RLIMIT_DATA, (lower, most))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def tokenized(tokenizer: Any, text: Text) -> Prompt:
    """Tokenize the whole text once, and append the tokenizer's EOS if it has one.

    A token that spans the boundary counts as output.
    """
    fast = bool(getattr(tokenizer, "is_fast", False))  # gives offsets; mistral-common's tokenizer has no such attribute
    encoding = tokenizer(text.text, add_special_tokens=text.special, return_offsets_mapping=fast, verbose=False)
    ids = list(encoding["input_ids"])
    if fast:
        ends = [end for _, end in encoding["offset_mapping"]]
        start = next((place for place, end in enumerate(ends) if end > text.boundary), len(ids))
    else:
        start = _start_without_offsets(tokenizer, text, ids)
    eos = tokenizer.eos_token_id
    if eos is not None and not text.closed and ids[-1:] != [eos]:
        ids.append(eos)
    return Prompt(tuple(ids), start)


def _start_without_offsets(tokenizer: Any, text: Text, ids: Sequence[int]) -> int:
    """Index of the first output token, found by tokenizing the input alone.

    If the tokens of the input begin those of the whole text, the output follows them. If not, because a token spans
    the boundary, it begins with the first token that makes the decoded text more than the decoded input; both are
    decoded, so a tokenizer that loses case or spaces loses them on both sides.
    """

    def decode(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=text.special, clean_up_tokenization_spaces=False))

    source = text.text[: text.boundary]
    alone = list(tokenizer(source, add_special_tokens=text.special, verbose=False)["input_ids"]) if source else []
    while alone and text.special and alone[-1] in tokenizer.all_special_ids:
        alone.pop()
    if list(ids[: len(alone)]) == alone and (alone or not text.special):
        return len(alone)
    if not source:
        return next((place for place, token in enumerate(ids) if token not in tokenizer.all_special_ids), len(ids))
    known = decode(alone)

    def outside(count: int) -> bool:
        words = decode(ids[: count + 1])
        whole = words.rstrip(_PARTIAL)  # a character of the input may be spread over several tokens
        return not known.startswith(whole) or (whole != words and whole == known)

    return bisect_left(range(len(ids)), x=True, key=outside)


def cut(prompt: Prompt, limit: int | None, *, bos: int | None = None, lm_cocktail: bool = False) -> Prompt:
    """Shorten a prompt to a number of tokens.

    The input loses its beginning (a leading BOS stays), because its end is nearest to the output, but keeps up to half
    of the limit; only then does the output lose its end. With `lm_cocktail` the text loses its end, as in the original.
    """
    if limit is None or len(prompt.ids) <= limit:
        return prompt
    if lm_cocktail:
        return Prompt(prompt.ids[:limit], min(prompt.start, limit), truncated=True)
    source, target = prompt.ids[: prompt.start], prompt.ids[prompt.start :]
    room = max(limit - len(target), min(len(source), limit // 2))
    head = source[:1] if bos is not None and source[:1] == (bos,) and room > 0 else ()
    tail = source[len(source) - (room - len(head)) :] if room > len(head) else ()
    kept = head + tail
    return Prompt(kept + target[: limit - len(kept)], len(kept), truncated=True)


def check_scorable(prompt: Prompt, *, name: str, example: int, limit: int | None) -> None:
    """Refuse a prompt with no output token that can be predicted.

    Raises:
        ScoringError: nothing of the output is left.
    """
    if prompt.first < len(prompt.ids):
        return
    why = f"none of its output fits into {limit} tokens" if prompt.truncated else "its output gives no token"
    raise ScoringError(
        f"Example {example} cannot be scored with '{name}': {why}.\n"
        "The loss is the cross-entropy of the output's tokens.\n"
        "Shorten the example, raise `max_length`, or remove the example.",
        model=name,
        example=example,
    )
