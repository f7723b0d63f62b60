from __future__ import annotations

import inspect
import math
from dataclasses import replace

import pytest
import scoring_models
import torch
from scoring_models import settings_for
from transformers import AutoModelForCausalLM, AutoTokenizer

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.examples import Examples
from cocktail_hub.evaluation.measure import LoadedRun
from cocktail_hub.evaluation.model import ScoringRun
from cocktail_hub.evaluation.questions import answer, choose, write
from cocktail_hub.evaluation.suites import LanguageTask, flan_tasks, mmlu_tasks

pytestmark = pytest.mark.whole

QUESTIONS = [
    ("The capital of France is", ["Paris", "Rome", "the sea"]),
    ("Where did the dog run?", ["in the park", "on the mat"]),
    ("Is it?", ["yes", "no", "Paris and Rome", "0"]),
    ("Rivers flow to", ["the sky", "the sea"]),
]
MMLU = [
    {"query": f"{text}? ", "choices": ["Rome", "no", "0", "sea"], "answer": place, "subject": "rivers"}
    for place, (text, _) in enumerate(QUESTIONS)
]


@pytest.fixture(scope="session", params=[False, True], ids=["plain", "bos"])
def folder(request, models_root):
    return scoring_models.save_llama(models_root / f"asked-{request.param}", seed=3, bos=request.param)


def loaded(folder, **keys) -> LoadedRun:
    run = ScoringRun(
        name="m",
        folder=folder,
        tokenizer_folder=folder,
        examples=Examples(()),
        settings=settings_for("text-generation", **keys),
        device=torch.device("cpu"),
    )
    return LoadedRun.of(run, "text-generation")


def choices(name: str = "arc_c") -> LanguageTask:
    rows = [{"task_name": name, "query": text, "answers": ["1"], "options": own} for text, own in QUESTIONS]
    return flan_tasks(rows)[0]


def written(name: str, answers: list[str] | None = None) -> LanguageTask:
    rows = [{"task_name": name, "query": text, "answers": answers or ["a"]} for text, _ in QUESTIONS]
    return flan_tasks(rows)[0]


def literal_choices(folder, texts: list[list[tuple[str, int]]]) -> list[str]:
    """The original's words: labels are the last tokens; their mean loss; the least wins."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for options in texts:
        losses = []
        for text, count in options:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            labels = ids.clone()
            labels[:, :-count] = -100
            with torch.no_grad():
                logits = model(input_ids=ids).logits
            shifted, wanted = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            each = torch.nn.functional.cross_entropy(shifted, wanted, reduction="none")
            losses.append(float(each.sum() / (labels != -100).sum()))
        found.append(str(losses.index(min(losses))))
    return found


@pytest.mark.parametrize("size", [None, 1, 3])
def test_the_option_with_the_lowest_mean_loss_is_chosen_as_in_the_original(folder, size):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [
        [(f"{text}\n {one}", len(tokenizer.encode(one, add_special_tokens=False))) for one in own]
        for text, own in QUESTIONS
    ]
    expected = literal_choices(folder, texts)
    assert choose(loaded(folder, batch_size=size), choices()) == expected
    assert len(set(expected)) > 1


def test_letters_of_mmlu_are_chosen_as_in_the_original_and_cost_one_pass(folder, monkeypatch):
    head, lines = "The following are multiple choice questions (with answers) about rivers.\n\n", "\nA. Rome\nB. no"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    count = len(tokenizer.encode("Answer: A")) - len(tokenizer.encode("Answer:"))
    texts = [
        [(f"{head}{text}?{lines}\nC. 0\nD. sea\nAnswer: {letter}", count) for letter in "ABCD"] for text, _ in QUESTIONS
    ]
    run = loaded(folder)
    run.model.config.max_position_embeddings = 4096  # rotary embeddings know no last position
    rows, real = [], run.model.forward

    def forward(**given):
        rows.append(len(given["input_ids"]))
        return real(**given)

    forward.__signature__ = inspect.signature(real)
    monkeypatch.setattr(run.model, "forward", forward)
    assert choose(run, mmlu_tasks(MMLU)[0]) == literal_choices(folder, texts)
    assert sum(rows) == len(MMLU)


def test_a_question_that_is_too_long_loses_its_beginning_but_keeps_what_begins_every_text(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder, truncation_side="left")
    seen: list[tuple[int, ...]] = []
    run = loaded(folder, max_length=12)
    real = run.model.forward

    def forward(**given):
        rows = zip(given["input_ids"].tolist(), given["attention_mask"].sum(1).tolist(), strict=True)
        seen.extend(tuple(ids[:length]) for ids, length in rows)
        return real(**given)

    forward.__signature__ = inspect.signature(real)
    run.model.forward = forward
    choose(run, choices())
    texts = [f"{text}\n {option}" for text, own in QUESTIONS for option in own]
    assert set(seen) == {tuple(tokenizer(text, truncation=True, max_length=12)["input_ids"][:-1]) for text in texts}


def literal_text(folder, prompt: str) -> str:
    """One token after the other up to a line break, whatever special tokens come; the strip of the original."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    ids, stop, new = list(tokenizer(prompt)["input_ids"]), tokenizer.encode("\n", add_special_tokens=False)[-1], []
    while len(new) < 64 and stop not in new:
        with torch.no_grad():
            new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
    return tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize("size", [None, 1])
def test_answers_end_with_a_line_break_or_after_64_tokens_and_with_nothing_else(folder, size):
    run = loaded(folder, batch_size=size)
    run.model.config.max_position_embeddings = 4096
    run.model.generation_config.eos_token_id = list(range(20))  # of the model's own, which do not count
    expected = [literal_text(folder, f"{text}\n") for text, _ in QUESTIONS]
    assert write(run, written("squad_v1")) == expected
    assert any(expected)


def test_a_choice_counts_as_right_by_its_index(folder):
    task = choices("multirc")
    found = answer(loaded(folder), task)
    assert found["label"] == ["1"] * 4
    assert found["predicted"] == choose(loaded(folder), task)
    assert found["right"] == [float(index == "1") for index in found["predicted"]]


def test_written_answers_are_compared_by_the_metric_of_the_task(folder, monkeypatch):
    monkeypatch.setattr("cocktail_hub.evaluation.questions.write", lambda run, task: ["The Dog!", "b", "c d", ""])
    run = loaded(folder)
    assert answer(run, written("squad_v1", ["cat", "dog"]))["exact"] == [1.0, 0.0, 0.0, 0.0]
    found = answer(run, written("gigaword", ["c d"]))
    assert found["rouge"] == pytest.approx([0, 0, 1, 0], abs=1e-7)
    assert found["written"] == ["The Dog!", "b", "c d", ""]


def test_an_option_without_a_token_of_its_own_is_refused(folder):
    task = choices()
    bad = replace(task.questions[2], options=("a", ""))
    with pytest.raises(ScoringError, match="cannot choose in question 2 of 'arc_c': its option '' has 0 of"):
        choose(loaded(folder), replace(task, questions=(*task.questions[:2], bad, task.questions[3])))


def test_a_model_that_gives_no_numbers_is_refused(folder):
    run = loaded(folder)
    torch.nn.init.constant_(run.model.lm_head.weight, math.nan)
    with pytest.raises(ScoringError, match="loss in question 0 of 'arc_c' that is not a finite number"):
        choose(run, choices())
